"""A Podman for tests, with a store and a socket of its own, and an image made of busybox-static."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.runtimes import watchdog

BUSYBOX = Path("/bin/busybox")
IMAGE = "localhost/mesh-busybox:1"
CONFIGURATION = """
# A Podman of its own beside whatever else the machine runs.
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "FOLDER/tmp"
"""


def missing() -> str:
    """Why these tests cannot run here, or "". The image is made of busybox-static, so nothing is fetched."""
    for name in ("podman", "runc"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    if os.geteuid() != 0:
        return "the engine of these tests needs root"
    if not BUSYBOX.exists() or b"ld-linux" in BUSYBOX.read_bytes()[:4096]:
        return "no static busybox in /bin"
    return ""


def image_tar() -> bytes:
    """A root file system with busybox and links to it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in ("sh", "sleep", "echo", "env", "cat", "id", "dd", "ls", "touch", "nc", "ip"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return out.getvalue()


@contextmanager
def podman_socket() -> Iterator[str]:
    """The socket of a Podman with a store of its own."""
    folder = Path(tempfile.mkdtemp(prefix="mesh-pod-"))
    (folder / "containers.conf").write_text(CONFIGURATION.replace("FOLDER", str(folder)))
    env = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}
    podman = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
    path = str(folder / "engine.sock")
    subprocess.run(
        [*podman, "import", "-", IMAGE], env=env, input=image_tar(), check=True, capture_output=True
    )
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen(
            [*podman, "system", "service", "--time", "0", f"unix://{path}"],
            env=env,
            cwd=folder,  # conmon leaves a file `oom` where it was started
            stdout=log,
            stderr=log,
        )
    try:
        while not watchdog.ask(path, "GET", "/_ping")[0]:
            assert service.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        yield path
    finally:
        subprocess.run([*podman, "rm", "-fa", "-t", "0"], env=env, check=False, capture_output=True)
        service.send_signal(signal.SIGTERM)
        service.wait()
        for mount in sorted(
            subprocess.run(["mount"], capture_output=True, text=True, check=True).stdout.split()
        ):
            if mount.startswith(str(folder)):
                subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
