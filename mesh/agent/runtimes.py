"""What this device can run workloads with, as configured; each runtime is loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mesh.agent.node import Node
from mesh.agent.supervisor import Supervisor
from mesh.runtimes.base import Kind, Opener, Runtime
from mesh.runtimes.offered import engine_socket, in_pod

FOLDER = "work"


def folder_of(node: Node) -> Path:
    """Where this node keeps what its instances need."""
    configured = node.config.runtimes.directory
    return Path(configured) / node.me.hex()[:16] if configured else node.home.path.absolute() / FOLDER


def supervisor_of(node: Node, open_secret: Opener) -> Supervisor:
    """The supervisor of this node. `open_secret`: the value of a secret that this node can read."""
    settings = node.config.runtimes
    engine = settings.container or engine_socket()
    root, word = folder_of(node), node.me.hex()[:8]

    def process() -> Runtime:
        from mesh.runtimes.process import LogLimits, Processes

        logs = LogLimits(settings.log_bytes_max, settings.log_files, settings.log_bytes_s)
        return Processes(root, word, node.wall_ms, logs, open_secret)

    def container() -> Runtime:
        from mesh.runtimes.container import Containers

        return Containers(engine, root, word, open_secret)

    def kubernetes() -> Runtime:
        from mesh.runtimes.kubeconfig import find_cluster
        from mesh.runtimes.kubernetes import Kubernetes

        return Kubernetes(find_cluster(settings.kubernetes, settings.kubernetes_namespace), word)

    makers: dict[Kind, Callable[[], Runtime]] = {}
    if settings.process:
        makers["process"] = process
    if engine not in ("", "none"):
        makers["container"] = container
    if settings.kubernetes != "none" and (settings.kubernetes or in_pod()):
        makers["kubernetes"] = kubernetes
    return Supervisor(
        makers,
        root,
        now_ms=node.now_ms,
        sample_s=settings.sample_s,
        keep_running=settings.keep_running,
    )
