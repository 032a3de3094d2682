"""An instance as objects of Kubernetes: a Deployment of one container, a claim for each kept directory."""

from __future__ import annotations

from typing import Any

from mesh.errors import UsageError
from mesh.runtimes.base import Directory, Launch, environment, filled

MANAGER = "mesh"
PREFIX = "mesh.node/"
PROGRESS_S = 120
CLAIM_BYTES = 1 << 30
Json = dict[str, Any]


def name_of(instance: str, node: str) -> str:
    """Of the Deployment: an instance's own, also when several nodes front one cluster."""
    return f"mesh-{node}-{instance.replace('/', '-')}".lower().replace("_", "-")[:63].rstrip("-")


def check(launch: Launch) -> None:
    """Raises UsageError for what a Deployment cannot be."""
    if launch.exclusive:
        raise UsageError(
            f"{launch.workload} is exclusive, and a cluster cannot promise that", "use process or container"
        )
    if launch.restart != "always":
        raise UsageError(f"{launch.workload}: restart {launch.restart} is not possible with kubernetes")
    uid, _, gid = launch.user.partition(":")
    if launch.user and not (uid.isdigit() and (gid.isdigit() or not gid)):
        raise UsageError(f"{launch.workload}: user {launch.user[:80]!r} is no number", "uid or uid:gid")


def labels_of(name: str, node: str, launch: Launch | None = None) -> Json:
    found = {"app.kubernetes.io/managed-by": MANAGER, f"{PREFIX}node": node, f"{PREFIX}name": name}
    return found | ({"app.kubernetes.io/name": launch.workload[:63]} if launch else {})


def claims(launch: Launch, name: str, node: str) -> list[Json]:
    """The claims that the Deployment needs."""
    kept = [each for each in launch.directories if each.persistent and not each.source]
    size = max(1, (launch.limits.storage_bytes or CLAIM_BYTES * len(kept)) // max(1, len(kept)))
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"{name}-{each.name}", "labels": labels_of(name, node)},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": str(size)}}},
        }
        for each in kept
    ]


def deployment(launch: Launch, name: str, node: str) -> Json:
    """The Deployment of an instance."""
    notes = {
        f"{PREFIX}{word}": str(value)
        for word, value in (
            ("instance", launch.instance),
            ("digest", launch.digest),
            ("epoch", launch.epoch),
            ("grace", launch.grace_s),
        )
    }
    labels = labels_of(name, node, launch)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels, "annotations": notes},
        "spec": {
            "replicas": launch.replicas,
            "strategy": {"type": "Recreate"},  # the old one ends before the new one starts
            "progressDeadlineSeconds": PROGRESS_S,
            "selector": {"matchLabels": {f"{PREFIX}name": name}},
            "template": {"metadata": {"labels": labels}, "spec": _pod(launch, name)},
        },
    }


def _pod(launch: Launch, name: str) -> Json:
    places = {each.name: each.path or f"/mesh/{each.name}" for each in launch.directories}
    own = environment(launch, places)
    launch = filled(launch, own)
    words = list(launch.argv)
    container: Json = {
        "name": "main",
        "image": launch.image,
        "env": [{"name": word, "value": value} for word, value in {**launch.env, **own}.items()],
        "securityContext": {"allowPrivilegeEscalation": False, **_user(launch.user)},
        "volumeMounts": [
            {"name": each.name, "mountPath": places[each.name], "readOnly": each.read_only}
            for each in launch.directories
        ],
        "ports": [
            {"containerPort": port.container, "protocol": port.protocol.upper(), **_host(launch, port.host)}
            for port in launch.ports
        ],
        "resources": {"limits": _limits(launch)},
    }
    if words:
        container["command" if launch.entrypoint else "args"] = words
    if launch.cwd:
        container["workingDir"] = launch.cwd
    return {
        "containers": [container],
        "volumes": [_volume(each, name) for each in launch.directories],
        "terminationGracePeriodSeconds": max(0, round(launch.grace_s)),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **({"hostNetwork": True} if launch.network == "host" else {}),
    }


def _host(launch: Launch, port: int) -> Json:
    return {"hostPort": port} if port and launch.network != "none" else {}


def _user(user: str) -> Json:
    uid, _, gid = user.partition(":")
    return {
        **({"runAsUser": int(uid)} if uid else {}),
        **({"runAsGroup": int(gid)} if gid else {}),
    }


def _limits(launch: Launch) -> dict[str, str]:
    limits = launch.limits
    return {
        **({"cpu": f"{max(1, round(limits.cpu_cores * 1000))}m"} if limits.cpu_cores else {}),
        **({"memory": str(limits.memory_bytes)} if limits.memory_bytes else {}),
        **({"ephemeral-storage": str(limits.storage_bytes)} if limits.storage_bytes else {}),
    }


def _volume(each: Directory, name: str) -> Json:
    if each.source:
        return {"name": each.name, "hostPath": {"path": each.source, "type": "Directory"}}
    if each.persistent:
        return {"name": each.name, "persistentVolumeClaim": {"claimName": f"{name}-{each.name}"}}
    return {"name": each.name, "emptyDir": {}}
