"""Three real agents, with programs behind services that nobody here wrote: redis and nginx."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading

from ports import free_port
from yard import Agent, Yard, eventually

NEEDED = ("redis-server", "redis-cli", "nginx", "curl", "openssl")
able = all(shutil.which(name) for name in NEEDED)

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_timeout 60s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 200 "{name} $request_uri $http_x_forwarded_user\\n"; }}
    location = /health {{ return 200 "fine\\n"; }}
  }}
}}
"""


class Place:
    """Three agents: `near` has proxy and gateway, the two others offer `cache` (redis) and `web` (nginx)."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard
        self.programs: list[subprocess.Popen[bytes]] = []
        self.threads: list[threading.Thread] = []
        self.near = yard.first(start=False)
        self.near.settings = {
            "MESHD_PROXY__LISTEN": "0",
            "MESHD_PROXY__DNS": "0",
            "MESHD_GATEWAY__LISTEN": "0",
        }
        config = yard.folder / "meshd.toml"
        config.write_text('[proxy.imports]\ncache = "0"\n')
        self.near.words = ["--config", str(config)]
        self.near.start()
        token = yard.invite(self.near, uses=2)
        secured = yard.join(token, start=False)
        self.certificate = yard.folder / "cert.pem"
        self.make_certificate()
        secured.settings = {
            "MESHD_GATEWAY__LISTEN": "0",
            "MESHD_GATEWAY__TLS_CERT": str(self.certificate),
            "MESHD_GATEWAY__TLS_KEY": str(yard.folder / "key.pem"),
            "MESHD_METRICS__INTERVAL_S": "1",
        }
        self.far = [secured.start(), yard.join(token)]
        yard.agree()
        for agent in self.far:
            self._offer(agent)
        with self.near.client() as client:
            # On a busy machine round trips differ: everyone healthy is to take turns all the same.
            client.set_route("*", {"default": "optimal", "margin": 1})
            for name in ("cache", "web"):
                eventually(lambda name=name: len(client.services(name)) == 2, f"two of {name} are healthy")
            self.at = {row["what"]: (row["host"], row["port"]) for row in client.listeners()}

    def make_certificate(self) -> None:
        words = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=mesh",
        ]
        words += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(self.certificate)]
        words += ["-keyout", str(self.yard.folder / "key.pem")]
        subprocess.run(["openssl", *words], capture_output=True, check=True, timeout=60)

    def _offer(self, agent: Agent) -> None:
        folder = self.yard.folder / f"{agent.name}.d"
        folder.mkdir()
        redis, web = free_port(), free_port()
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=web, name=agent.name))
        words = [
            "redis-server",
            "--port",
            str(redis),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        for command in (words, ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]):
            with (folder / "log").open("ab") as log:
                self.programs.append(subprocess.Popen(command, stdout=log, stderr=log))
        tcp = {"kind": "tcp", "interval_s": 1, "rise": 1}
        http = {"kind": "http", "path": "/health", "interval_s": 1, "rise": 1}
        with agent.client() as client:
            client.register({"name": "cache", "port": redis, "checks": [tcp]})
            client.register({"name": "web", "port": web, "protocol": "http", "checks": [http]})

    def end(self) -> None:
        self.yard.end()
        for program in self.programs:
            program.kill()
            program.wait()
        for thread in self.threads:
            thread.join()

    def redis(self, *words: str) -> subprocess.CompletedProcess[str]:
        host, port = self.at["proxy.imports.cache"]
        command = ["redis-cli", "-h", host, "-p", str(port), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def curl(self, *words: str) -> str:
        command = ["curl", "-s", "--max-time", "30", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout

    def lookup(self, name: str) -> tuple[str, int]:
        """Address and port of a service, as DNS on loopback tells them; dig is not everywhere."""
        import dnslib

        found = []
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(60)
            for kind in ("A", "SRV"):
                sock.sendto(bytes(dnslib.DNSRecord.question(name, kind).pack()), self.at["proxy.dns"])
                found.append(dnslib.DNSRecord.parse(sock.recv(512)).rr[0].rdata)
        return str(found[0]), found[1].port

    def gateway(self, path: str) -> str:
        host, port = self.at["gateway.listen"]
        return f"http://{host}:{port}{path}"
