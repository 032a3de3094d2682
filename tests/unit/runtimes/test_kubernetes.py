"""Kubernetes, against a server of our own that takes only what the published models of the API have.

`kubernetes_models.json` holds the fields, types and required fields of Deployment and PersistentVolumeClaim
and all that they are made of, taken from the models of the official Python client 31.0.0 (API 1.31). The
server does server-side apply, get, list by label, delete and the log of a pod, as far as mesh uses them.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import re
import ssl
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import ConfigError, Denied, Failed, NotFound, UsageError
from mesh.runtimes import kubernetes as runtime
from mesh.runtimes.base import Directory, Launch, Limits, Port
from mesh.runtimes.kubeconfig import find_cluster
from mesh.runtimes.kubernetes import Kubernetes

MODELS = json.loads(Path(__file__).with_name("kubernetes_models.json").read_text())
PLAIN: dict[str, Any] = {"str": str, "int": int, "bool": bool, "object": object, "datetime": str}
ROOT_OF = {"Deployment": "V1Deployment", "PersistentVolumeClaim": "V1PersistentVolumeClaim"}


def faults(value: Any, kind: str, where: str) -> list[str]:
    """What of a value does not fit a model's type."""
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: not a list"]
        return [fault for at, each in enumerate(value) for fault in faults(each, match[1], f"{where}[{at}]")]
    if match := re.fullmatch(r"dict\(str, (.*)\)", kind):
        if not isinstance(value, dict):
            return [f"{where}: not a map"]
        return [fault for name, each in value.items() for fault in faults(each, match[1], f"{where}.{name}")]
    if kind in PLAIN:
        right = isinstance(value, PLAIN[kind]) and (kind != "int" or not isinstance(value, bool))
        return [] if right else [f"{where}: {value!r} is no {kind}"]
    model = MODELS[kind]
    if not isinstance(value, dict):
        return [f"{where}: not an object"]
    found = [f"{where}: {name} is required" for name in model["required"] if name not in value]
    for name, each in value.items():
        inner = model["fields"].get(name)
        found += faults(each, inner, f"{where}.{name}") if inner else [f"{where}: {name} is unknown"]
    return found


class Server:
    """A cluster's API in memory."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.tokens: list[str] = []
        self.forbid = False
        self.log = b""
        self.port = 0

    async def serve(self, stream: trio.abc.Stream) -> None:
        conn = h11.Connection(h11.SERVER)
        body, request = b"", None
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                conn.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                break
        if request is None:
            return
        head = {name.decode(): value.decode() for name, value in request.headers}
        self.tokens.append(head.get("authorization", ""))
        url = urlsplit(request.target.decode())
        status, answer = self.answer(request.method.decode(), url.path, parse_qs(url.query), head, body)
        out = conn.send(h11.Response(status_code=status, headers=[("connection", "close")])) or b""
        out += conn.send(h11.Data(data=answer)) or b""
        await stream.send_all(out + (conn.send(h11.EndOfMessage()) or b""))
        await stream.aclose()

    def answer(
        self, method: str, path: str, query: dict[str, list[str]], head: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        match = re.fullmatch(r"/(?:api|apis/apps)/v1/namespaces/edge/(\w+)(?:/([\w.-]+))?(/log)?", path)
        if match is None:
            return _status(404, f"no path {path}")
        if self.forbid:
            return _status(403, "deployments.apps is forbidden")
        kind, name, log = match.groups()
        if log:
            assert query["timestamps"] == ["true"]
            return 200, self.log
        if method == "PATCH":
            return self.apply(kind, name, query, head, json.loads(body))
        if not name:
            return 200, json.dumps({"items": self.matching(kind, query["labelSelector"][0])}).encode()
        if (kind, name) not in self.items:
            return _status(404, f'{kind} "{name}" not found')
        if method == "DELETE":
            assert json.loads(body)["propagationPolicy"] == "Foreground"
            del self.items[kind, name]
            return _status(200, "")
        return 200, json.dumps(self.items[kind, name]).encode()

    def apply(
        self, kind: str, name: str, query: dict[str, list[str]], head: dict[str, str], item: dict[str, Any]
    ) -> tuple[int, bytes]:
        assert head["content-type"] == "application/apply-patch+yaml"
        assert query == {"fieldManager": ["mesh"], "force": ["true"]}
        wrong = faults(item, ROOT_OF[item["kind"]], item["kind"])
        if kind == "deployments":
            spec = item["spec"]
            if not spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items():
                wrong.append("`selector` does not match template `labels`")
        wrong += [
            f"{name}: no DNS label"
            for _ in "x"
            if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)
        ]
        if wrong or item["metadata"]["name"] != name:
            return _status(422, "; ".join(wrong))
        self.items[kind, name] = {**item, "status": {}}
        return 200, json.dumps(item).encode()

    def matching(self, kind: str, selector: str) -> list[dict[str, Any]]:
        word, _, value = selector.partition("=")
        found = [item for (each, _), item in sorted(self.items.items()) if each == kind]
        return [item for item in found if item["metadata"]["labels"].get(word) == value]


def _status(code: int, message: str) -> tuple[int, bytes]:
    return code, json.dumps({"kind": "Status", "code": code, "message": message}).encode()


@pytest.fixture
async def server(nursery: trio.Nursery) -> Server:
    made = Server()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made.port = listeners[0].socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, made.serve, listeners)
    return made


def write_config(folder: Path, port: int, user: dict[str, Any] | None = None) -> str:
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "edge"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": user or {"token": "secret"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.fixture
async def cluster(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubernetes:
    """A client of the server's."""
    monkeypatch.setattr(runtime, "LOOK_S", 0.01)
    return Kubernetes(find_cluster(write_config(tmp_path, server.port)), "n1")


def app(**more: Any) -> Launch:
    words = {"instance": "app/0", "workload": "app", "image": "example.org/app:1", **more}
    return Launch(runtime="kubernetes", **words)


FULL = app(
    argv=("serve", "--data", "${DIR_DATA}"), entrypoint=True, env={"COLOUR": "red"}, cwd="/srv", epoch=3,
    user="1000:1001", network="host", ports=(Port(80, 8080), Port(53, 5353, "udp")), replicas=2,
    directories=(Directory("data"), Directory("temp", persistent=False), Directory("dev", source="/dev/shm")),
    limits=Limits(cpu_cores=0.5, memory_bytes=1 << 28, storage_bytes=1 << 30),
)  # fmt: skip


async def test_everything_that_a_launch_can_say_is_valid_for_the_published_api(
    cluster: Kubernetes, server: Server
) -> None:
    running = await cluster.start(FULL)
    assert (running.instance, running.digest, running.epoch) == ("app/0", FULL.digest, 3)
    item = server.items["deployments", "mesh-n1-app-0"]
    pod = item["spec"]["template"]["spec"]
    main = pod["containers"][0]
    assert main["command"] == ["serve", "--data", "/mesh/data"]
    assert {"name": "MESH_EPOCH", "value": "3"} in main["env"]
    assert main["resources"]["limits"] == {
        "cpu": "500m", "memory": str(1 << 28), "ephemeral-storage": str(1 << 30),
    }  # fmt: skip
    assert ("persistentvolumeclaims", "mesh-n1-app-0-data") in server.items
    assert set(server.tokens) == {"Bearer secret"}


async def test_a_start_of_what_is_there_brings_it_in_line(cluster: Kubernetes, server: Server) -> None:
    await cluster.start(app())
    await cluster.start(app(image="example.org/app:2"))
    assert [key for key in server.items if key[0] == "deployments"] == [("deployments", "mesh-n1-app-0")]
    found = await cluster.adopt()
    assert [each.digest for each in found] == [app(image="example.org/app:2").digest]


async def test_what_is_stopped_and_forgotten_leaves_nothing(cluster: Kubernetes, server: Server) -> None:
    running = await cluster.start(app(directories=(Directory("data"),)))
    assert (await running.stop(5)).asked
    assert ("persistentvolumeclaims", "mesh-n1-app-0-data") in server.items
    await cluster.forget("app/0", keep_data=False)
    assert server.items == {}


async def test_an_image_that_cannot_be_pulled_is_told_in_the_clusters_words(
    cluster: Kubernetes, server: Server
) -> None:
    running = await cluster.start(app())
    waiting = {"reason": "ErrImagePull", "message": "no such image"}
    server.items["pods", "p"] = {
        "metadata": {"name": "p", "labels": {"mesh.node/name": "mesh-n1-app-0"}},
        "status": {"containerStatuses": [{"state": {"waiting": waiting}}]},
    }
    server.items["deployments", "mesh-n1-app-0"]["status"] = {
        "conditions": [{"type": "Progressing", "status": "False", "message": "deadline exceeded"}]
    }
    with trio.fail_after(60):
        end = await running.wait()
    assert end.why == "deadline exceeded: ErrImagePull: no such image"
    del server.items["deployments", "mesh-n1-app-0"]
    assert (await running.wait()).lost


async def test_the_log_is_that_of_the_newest_pod(cluster: Kubernetes, server: Server) -> None:
    for name, made in (("old", "2026-01-01T00:00:00Z"), ("new", "2026-01-02T00:00:00Z")):
        labels = {"mesh.node/name": "mesh-n1-app-0"}
        server.items["pods", name] = {"metadata": {"name": name, "labels": labels, "creationTimestamp": made}}
    server.log = b"2026-01-02T00:00:01Z hello there\n2026-01-02T00:00:02Z bye\n"
    async with aclosing(cluster.logs("app/0", tail=10, follow=False)) as lines:
        assert [line.text async for line in lines] == ["hello there", "bye"]
    with pytest.raises(NotFound):
        await cluster.logs("app/1", tail=10, follow=False).__anext__()


@pytest.mark.parametrize(
    "launch", [app(exclusive=True), app(restart="never"), app(user="bob"), app(image="")]
)
async def test_what_a_deployment_cannot_be_is_refused(cluster: Kubernetes, launch: Launch) -> None:
    with pytest.raises(UsageError):
        await cluster.start(launch)


async def test_a_refusal_names_what_the_cluster_says(cluster: Kubernetes, server: Server) -> None:
    server.forbid = True
    with pytest.raises(Denied, match="forbidden"):
        await cluster.start(app())


async def test_a_cluster_that_is_not_there_is_an_error_with_its_place(tmp_path: Path) -> None:
    gone = Kubernetes(find_cluster(write_config(tmp_path, 1)), "n1")
    with pytest.raises(Failed, match=r"127[.]0[.]0[.]1 cannot be reached"):
        await gone.adopt()


def certificate() -> tuple[bytes, bytes]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    day = datetime.datetime(2020, 1, 1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), day)
        .not_valid_after(day + datetime.timedelta(days=36500))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), secret


async def test_a_cluster_is_known_by_its_certificate_alone(nursery: trio.Nursery, tmp_path: Path) -> None:
    (chain, key), (other, _) = certificate(), certificate()
    (tmp_path / "pem").write_bytes(chain + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await Server().serve(stream)
        except trio.BrokenResourceError:
            pass

    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    port = listeners[0].transport_listener.socket.getsockname()[1]
    for authority, trusted in ((chain, True), (other, False)):
        path = Path(write_config(tmp_path, port))
        config = json.loads(path.read_text())
        config["clusters"][0]["cluster"] = {
            "server": f"https://127.0.0.1:{port}",
            "certificate-authority-data": base64.b64encode(authority).decode(),
        }
        path.write_text(json.dumps(config))
        cluster = Kubernetes(find_cluster(str(path)), "n1")
        if trusted:
            assert await cluster.adopt() == []
        else:
            with pytest.raises(Failed, match="no trusted connection"):
                await cluster.adopt()
    nursery.cancel_scope.cancel()


def test_a_kubeconfig_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        find_cluster(str(tmp_path / "none"))
    with pytest.raises(NotFound, match="fronts no Kubernetes"):
        find_cluster("")
    with pytest.raises(ConfigError, match="exec is not supported"):
        find_cluster(write_config(tmp_path, 1, {"exec": {"command": "aws"}}))
    (tmp_path / "kubeconfig").write_text("{}")
    with pytest.raises(ConfigError, match="no context"):
        find_cluster(str(tmp_path / "kubeconfig"))
    token = tmp_path / "token"
    token.write_text("from a file\n")
    assert find_cluster(write_config(tmp_path, 1, {"tokenFile": str(token)})).token() == "from a file"
