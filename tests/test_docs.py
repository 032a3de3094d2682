"""The README is true: what it marks as runnable runs as it stands, and what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.config import PORT, SECTIONS
from mesh.settings import knobs

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(text: str) -> list[str]:
    """The fenced blocks marked `sh runnable`, in order."""
    return re.findall(r"^```sh runnable\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def mesh_directory() -> Iterator[Path]:
    """A mesh made by scripts/up, somewhere other than the checkout's own."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as name:
        directory = Path(name) / "m"
        up = [sys.executable, str(ROOT / "scripts" / "up"), "--dir", str(directory)]
        down = [sys.executable, str(ROOT / "scripts" / "down"), "--dir", str(directory)]
        try:
            done = subprocess.run(up, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            yield directory
        finally:
            subprocess.run(down, capture_output=True, check=False)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_as_they_stand(mesh_directory: Path) -> None:
    script = "\n".join(blocks(README))
    assert script.count("meshctl") > 10
    script = script.replace("$PWD/.mesh/", f"{mesh_directory}/").replace(".mesh/", f"{mesh_directory}/")
    script = script.replace("$PWD/.venv/bin", str(Path(sys.executable).parent))
    script = re.sub(r"scripts/up\b", f"{sys.executable} scripts/up --dir {mesh_directory}", script)
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for shown in ("node-1", "node-3", "Frankfurt", "Hamburg", "ann", "node-3 did not see this"):
        assert shown in done.stdout


def test_every_file_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:scripts|configs|mesh|cmd)/[\w./-]+)`", README))
    named |= {f"{name}.md" for name in re.findall(r"`(ARCHITECTURE|CHANGELOG)\.md`", README)}
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert len(named) > 15
    assert missing == []


def test_settings_that_the_documents_name_are_settings() -> None:
    documents = README + "".join(path.read_text() for path in ROOT.glob("configs/presets/*.toml"))
    variables = {knob.variable for knob in knobs().values()} | {"MESHD_SECTION__KEY"}
    assert set(re.findall(r"\bMESHD_\w+__\w+\b", documents)) <= variables
    dotted = re.findall(rf"\b((?:{'|'.join(SECTIONS)})\.[a-z_]+)\b", documents)
    assert {name for name in dotted if name not in knobs()} <= {"node.key", "admin.sock", "services.d"}


def test_the_port_in_the_readme_is_the_default() -> None:
    assert f"One port number, {PORT} by default" in README


def test_the_changelog_has_an_unreleased_head() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
