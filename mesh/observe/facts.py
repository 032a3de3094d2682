"""What a device can tell of itself for its node card: measured, not configured. Missing is left out."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_GPU = ("dev/nvidia0", "dev/kfd", "dev/dri/renderD128", "dev/nvhost-gpu")
_CONTAINER = ("run/docker.sock", "run/podman/podman.sock")


def node_facts(
    data_dir: str, root: Path = Path("/"), environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Facts of this device.

    Args:
        root: where the device's file tree is; given in tests.

    Returns:
        cpu_cores, memory_bytes, storage_bytes (of the data directory's file system), arch, os, timezone,
        capabilities (gpu, fpga, sensors, and the runtimes process, container, kubernetes).
    """
    facts: dict[str, Any] = {
        "cpu_cores": float(psutil.cpu_count() or 1),
        "memory_bytes": psutil.virtual_memory().total,
        "arch": platform.machine(),
        "os": _os(root),
        "timezone": _timezone(root, environ),
        "capabilities": _capabilities(root, environ),
    }
    try:
        facts["storage_bytes"] = psutil.disk_usage(data_dir).total
    except OSError:
        pass
    return {name: value for name, value in facts.items() if value not in ("", None)}


def _os(root: Path) -> str:
    try:
        for line in (root / "etc/os-release").read_text(errors="replace").splitlines():
            name, _, value = line.partition("=")
            if name == "PRETTY_NAME":
                return value.strip('"')[:100]
    except OSError:
        pass
    return f"{platform.system()} {platform.release()}"[:100]


def _timezone(root: Path, environ: Mapping[str, str]) -> str:
    if zone := environ.get("TZ", ""):
        return zone.lstrip(":")[:64]
    try:
        if zone := (root / "etc/timezone").read_text(errors="replace").strip():
            return zone[:64]
    except OSError:
        pass
    try:
        target = os.readlink(root / "etc/localtime")
    except OSError:
        return "UTC"
    return target.partition("zoneinfo/")[2][:64] or "UTC"


def _capabilities(root: Path, environ: Mapping[str, str]) -> list[str]:
    found = ["process"]
    if any((root / path).exists() for path in _GPU):
        found.append("gpu")
    if _any_in(root / "sys/class/fpga_manager"):
        found.append("fpga")
    if _any_in(root / "sys/bus/iio/devices"):
        found.append("sensors")
    if any((root / path).exists() for path in _CONTAINER) or shutil.which("podman", path=environ.get("PATH")):
        found.append("container")
    if "KUBERNETES_SERVICE_HOST" in environ or (root / "var/lib/kubelet").exists():
        found.append("kubernetes")
    return sorted(found)


def _any_in(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
