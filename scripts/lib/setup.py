"""Set-up: from a bare Debian or Ubuntu with python3 to a `.venv` that holds the project.

Runs on the standard library of any Python 3.8 or newer, because it is what finds a Python that is new enough.
System packages are installed only where a probe shows that one is missing, as root or through sudo that asks
no password; else the command to type is printed. A stamp in `.venv` (hash of pyproject.toml, interpreter and
extras) makes the second call take milliseconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
STAMP = VENV / "mesh-stamp.json"
PYTHON_MIN = (3, 11)
RUN = ()
TEST = ("dev",)
BENCH = ("bench",)
ENGINE = {"podman": "podman", "runc": "runc", "busybox": "busybox-static"}
TEST_PROGRAMS = (
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
)

_INSTEAD = (
    "It is left as it is. Run this as its owner, or copy the checkout without its .venv to a directory of\n"
    "your own: there the first call makes one for you."
)

_PROBE = """
import json, os, sys, sysconfig
try:
    import ensurepip, venv
    has_venv = True
except ImportError:
    has_venv = False
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
print(json.dumps({"version": sys.version_info[:2], "venv": has_venv, "headers": os.path.exists(header),
                  "executable": os.path.realpath(sys.executable)}))
"""


class SetupError(Exception):
    """Set-up cannot go on; the message says what is missing and what to type."""


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def ready(extras: Sequence[str] = RUN) -> Path:
    """Make `.venv` hold the project with these extras, and return its `bin` directory.

    Raises:
        SetupError: something is missing that cannot be installed from here.
    """
    if not _stamped(extras):
        with locked(ROOT / "pyproject.toml"):
            if not _stamped(extras):
                _set_up(extras)
    return VENV / "bin"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made if absent; says so when it has to wait for another process."""
    file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"waiting for another process that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _set_up(extras: Sequence[str]) -> None:
    started = time.monotonic()
    _check_ours(VENV)
    python = _python()
    _system_packages(python)
    if "dev" in extras:
        _test_packages()
    interpreter = VENV / "bin" / "python"
    present = _probed(str(interpreter))
    moved = _read_stamp().get("root", str(ROOT)) != str(ROOT)
    if present is None or tuple(present["version"]) < PYTHON_MIN or moved:
        _check_replaceable(VENV)
        say(f"creating {VENV} with {python['executable']}")
        _run([python["executable"], "-m", "venv", "--clear", str(VENV)])
    wanted = sorted(set(_read_stamp().get("extras", ())) | set(extras))
    with_extras = f"[{','.join(wanted)}]" if wanted else ""
    say(f"installing the project{with_extras} and its dependencies into {VENV}")
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--editable", f"{ROOT}{with_extras}"])
    for stale in VENV.glob("lib/python3*/site-packages/trio-stubs"):
        # Comes with libp2p's trio-typing, knows a trio of years ago, and hides trio's own types from mypy.
        shutil.rmtree(stale)
    STAMP.write_text(json.dumps({"hash": _hash(), "extras": wanted, "root": str(ROOT)}))
    say(f"set-up done in {time.monotonic() - started:.0f} s")


def _check_ours(venv: Path) -> None:
    """Refuse to install into an environment that is another user's; root may, as `sudo scripts/fault` does.

    Raises:
        SetupError: it is another's, or cannot be read or written; it is left as it is.
    """
    try:
        owner = venv.stat().st_uid
    except FileNotFoundError:
        return
    except OSError as error:
        raise SetupError(f"{venv} cannot be read: {error.strerror}.\n{_INSTEAD}") from None
    if os.geteuid() not in (0, owner):
        raise SetupError(
            f"{venv} belongs to {_user(owner)}, and is not ready for {_user(os.geteuid())}.\n{_INSTEAD}"
        )
    if not os.access(venv, os.R_OK | os.W_OK | os.X_OK):
        raise SetupError(f"{venv} cannot be read and written by {_user(os.geteuid())}.\n{_INSTEAD}")


def _check_replaceable(venv: Path) -> None:
    """Refuse to clear what is another user's, root's own too, or only cannot be run by this one.

    Raises:
        SetupError: it is to be left as it is.
    """
    with contextlib.suppress(FileNotFoundError):
        owner = venv.stat().st_uid
        if owner != os.geteuid():
            raise SetupError(f"{venv} does not run here, and belongs to {_user(owner)}.\n{_INSTEAD}")
        if any(venv.iterdir()) and not (venv / "pyvenv.cfg").is_file():
            raise SetupError(f"{venv} was not made by venv: it is not cleared. Move it away, then try again.")
        try:
            (venv / "bin" / "python").stat()
        except PermissionError:
            raise SetupError(
                f"{_user(os.geteuid())} may not reach the Python of {venv}.\n{_INSTEAD}"
            ) from None


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _hash() -> str:
    """What the installed environment depends on."""
    return hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()


def _read_stamp() -> dict[str, Any]:
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _stamped(extras: Sequence[str]) -> bool:
    stamp = _read_stamp()
    up_to_date = stamp.get("hash") == _hash() and stamp.get("root") == str(ROOT)
    runs = all(os.access(VENV / "bin" / name, os.X_OK) for name in ("python", "meshd", "meshctl"))
    return up_to_date and runs and set(extras) <= set(stamp.get("extras", ()))


def _probed(executable: str) -> dict[str, Any] | None:
    """Version and abilities of a Python interpreter, or None where it does not run."""
    try:
        done = subprocess.run(
            [executable, "-c", _PROBE], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(json.loads(done.stdout))


def _python() -> dict[str, Any]:
    """The newest Python that will do, the one that runs this first; installed where the system offers one."""
    for attempt in range(2):
        candidates = [os.environ.get("MESH_PYTHON"), sys.executable]
        candidates += [shutil.which(f"python3.{minor}") for minor in (13, 12, 11, 14)] + [
            shutil.which("python3")
        ]
        for candidate in filter(None, candidates):
            found = _probed(candidate)
            if found and tuple(found["version"]) >= PYTHON_MIN:
                return found
        if attempt == 0 and shutil.which("apt-get"):
            _apt(["update"])
            offered = [f"python3.{minor}" for minor in (13, 12, 11) if _offered(f"python3.{minor}")]
            if offered:
                _apt(["install", offered[0]])
    raise SetupError(
        f"Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer is needed; found {sys.version.split()[0]}.\n"
        "Install one (Debian 12 and Ubuntu 24.04 have it), or name it with MESH_PYTHON=/path/to/python3."
    )


def _offered(package: str) -> bool:
    shown = subprocess.run(["apt-cache", "show", package], capture_output=True, check=False)
    return shown.returncode == 0


def _system_packages(python: dict[str, Any]) -> None:
    """Install what a probe shows to be missing: fastecdsa, a dependency of libp2p, is built from source."""
    of_system = python["executable"].startswith("/usr/bin/")
    name = "python{}.{}".format(*python["version"]) if of_system else ""
    wanted = []
    if not shutil.which("cc") or not shutil.which("make"):
        wanted.append("build-essential")
    if not _compiles("#include <gmp.h>"):
        wanted.append("libgmp-dev")
    if not python["headers"] and name:
        wanted.append(f"{name}-dev")
    if not python["venv"] and name:
        wanted.append(f"{name}-venv")
    if not wanted:
        return
    if not shutil.which("apt-get"):
        raise SetupError(
            f"missing: {', '.join(wanted)} (Debian's names); install them with this system's packager"
        )
    say(f"installing system packages: {' '.join(wanted)}")
    _apt(["update"], wanted)
    _apt(["install", *wanted], wanted)


def _test_packages() -> None:
    """Programs that tests call through the mesh. Where they cannot be had, those tests are skipped."""
    wanted = [package for program, package in TEST_PROGRAMS if not shutil.which(program)]
    if not wanted or not shutil.which("apt-get"):
        return
    say(f"installing programs for tests: {' '.join(wanted)}")
    try:
        _apt(["update"], wanted)
        _apt(["install", *wanted], wanted)
    except SetupError as error:
        say(f"without {', '.join(wanted)} some tests are skipped: {str(error).splitlines()[0]}")


def engine() -> None:
    """A container engine for the tests of containers, which are skipped without one; about 20 s, once.

    Only as root, which is what a bare test machine is; nobody's own machine is given an engine unasked.
    """
    wanted = [name for name in ENGINE if not shutil.which(name)]
    if not wanted or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    say(f"installing for the tests of containers: {' '.join(ENGINE.values())}")
    with contextlib.suppress(SetupError):
        _apt(["install", *ENGINE.values()])


def _compiles(source: str) -> bool:
    """Whether the C compiler, if there is one, finds this header."""
    compiler = shutil.which("cc")
    if not compiler:
        return False
    command = [compiler, "-E", "-x", "c", "-", "-o", os.devnull]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


def _apt(arguments: Sequence[str], wanted: Sequence[str] = ()) -> None:
    """apt-get as root or through sudo without a password."""
    command = ["apt-get", "--quiet", "--yes", "--no-install-recommends", *arguments]
    if os.geteuid() != 0:
        sudo = shutil.which("sudo")
        if not sudo or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode != 0:
            todo = " ".join(wanted) or " ".join(arguments[1:]) or "python3.11"
            raise SetupError(
                f"system packages are missing. Type, then try again:\n  sudo apt-get install {todo}"
            )
        command = [sudo, "-n", "env", "DEBIAN_FRONTEND=noninteractive", *command]
    _run(command, {**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Run a command with its output kept, and shown when it fails."""
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
        if done.returncode != 0:
            output.seek(0)
            tail = "".join(output.readlines()[-40:])
            raise SetupError(f"{tail}\nfailed with status {done.returncode}: {' '.join(map(str, command))}")
