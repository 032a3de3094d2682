"""Which cluster, and as whom: from the pod's own service account or from a kubeconfig.

A kubeconfig is YAML, or JSON as `kubectl config view --raw -o json` prints it. Of its ways to log in those
are taken that need no other program: a token, a token file, a client certificate. Tokens that lie in files
are read again for each request, because the cluster changes them.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import trio

from mesh.errors import ConfigError, Failed, NotFound
from mesh.runtimes.offered import ACCOUNT
from mesh.runtimes.web import Open

CONNECT_S = 10.0


class Cluster(NamedTuple):
    """How to talk to one."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None
    token: Callable[[], str]
    namespace: str

    def opener(self) -> Open:
        """Makes connections."""

        async def connect() -> trio.abc.Stream:
            stream = await trio.open_tcp_stream(self.host, self.port)
            if self.tls is None:
                return stream
            secure = trio.SSLStream(stream, self.tls, server_hostname=self.host, https_compatible=True)
            try:
                with trio.fail_after(CONNECT_S):
                    await secure.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError) as error:
                await trio.aclose_forcefully(stream)
                reason = error.__cause__ or "no handshake in time"
                raise Failed(f"no trusted connection with the cluster at {self.host}: {reason}") from None
            return secure

        return connect


def find_cluster(kubeconfig: str, namespace: str = "") -> Cluster:
    """The cluster of a kubeconfig, or without one that of this pod.

    Raises:
        NotFound: this is no pod, or there is no such file.
        ConfigError: naming what is missing or not understood.
    """
    return _configured(Path(kubeconfig), namespace) if kubeconfig else _own(ACCOUNT, namespace, os.environ)


def _own(account: Path, namespace: str, environ: Any) -> Cluster:
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    if not host or not (account / "token").exists():
        raise NotFound("this node fronts no Kubernetes cluster", "set runtimes.kubernetes to a kubeconfig")
    context = ssl.create_default_context(cafile=str(account / "ca.crt"))
    if not namespace and (account / "namespace").exists():
        namespace = (account / "namespace").read_text().strip()
    port = int(environ.get("KUBERNETES_SERVICE_PORT", "443"))
    return Cluster(host, port, "", context, _from_file(account / "token"), namespace or "default")


def _configured(path: Path, namespace: str) -> Cluster:
    config = _load(path)
    context = _named(config, "contexts", config.get("current-context", ""), "context", path)
    cluster = _named(config, "clusters", context.get("cluster", ""), "cluster", path)
    user = _named(config, "users", context.get("user", ""), "user", path) if context.get("user") else {}
    server = urlsplit(str(cluster.get("server", "")))
    if server.scheme not in ("http", "https") or not server.hostname:
        raise ConfigError(f"{path}: server {cluster.get('server')!r} is no URL")
    for word in ("exec", "auth-provider", "username"):
        if word in user:
            raise ConfigError(
                f"{path}: logging in by {word} is not supported", "use a token or a client certificate"
            )
    try:
        tls = _tls(cluster, user) if server.scheme == "https" else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: its certificates cannot be used: {error}") from None
    port = server.port or (443 if server.scheme == "https" else 80)
    token = str(user.get("token", ""))
    reader = _from_file(Path(user["tokenFile"])) if user.get("tokenFile") else lambda: token
    found = namespace or str(context.get("namespace", "")) or "default"
    return Cluster(server.hostname, port, server.path.rstrip("/"), tls, reader, found)


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise NotFound(f"kubeconfig {path}: {error.strerror}") from None
    try:
        found = json.loads(text)
    except ValueError:
        found = _yaml(path, text)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no kubeconfig")
    return found


def _yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is neither JSON nor YAML: {error}"[:300]) from None


def _named(config: dict[str, Any], part: str, name: str, word: str, path: Path) -> dict[str, Any]:
    for each in config.get(part) or ():
        if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(word), dict):
            return dict(each[word])
    raise ConfigError(f"{path} has no {word} {name!r}")


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    ca = cluster.get("certificate-authority-data")
    data = base64.b64decode(ca).decode() if ca else None
    context = ssl.create_default_context(cafile=cluster.get("certificate-authority"), cadata=data)
    if cluster.get("insecure-skip-tls-verify"):
        raise ValueError("insecure-skip-tls-verify is refused: name the certificate authority")
    if user.get("client-certificate"):
        context.load_cert_chain(user["client-certificate"], user.get("client-key"))
    elif user.get("client-certificate-data"):
        # The ssl module reads keys from files only.
        with tempfile.NamedTemporaryFile() as file:
            file.write(base64.b64decode(user["client-certificate-data"]))
            file.write(b"\n" + base64.b64decode(user.get("client-key-data", "")))
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _from_file(path: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            return path.read_text().strip()
        except OSError as error:
            raise Failed(f"the token in {path} cannot be read: {error.strerror}") from None

    return read
