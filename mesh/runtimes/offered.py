"""Which engines this device has, found out without loading what talks to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SOCKETS = ("run/docker.sock", "run/podman/podman.sock")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def engine_socket(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> str:
    """Where Docker or Podman listens, "" when nowhere that is known."""
    places = [root / place for place in SOCKETS]
    if runtime := environ.get("XDG_RUNTIME_DIR", ""):
        places += [Path(runtime, "docker.sock"), Path(runtime, "podman", "podman.sock")]
    return next((str(place) for place in places if place.is_socket()), "")


def in_pod(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a pod with an account of its cluster."""
    return bool(environ.get("KUBERNETES_SERVICE_HOST")) and (ACCOUNT / "token").exists()
