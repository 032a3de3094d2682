"""The source itself, held to the laws of the house: sizes, docstrings, names, defaults, the room table."""

from __future__ import annotations

import ast
import cmd
import pdb
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.settings import defaults_file, knobs, load

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES_MAX = 440  # 400 is the aim; what is far above needs a reason
FUNCTION_LINES_MAX = 70
# What is longer, why it is better whole, and the length it may have, so that it cannot grow unseen.
LONG_FILES: dict[str, tuple[int, str]] = {
    "mesh/agent/node.py": (652, "the composition root: every task of a node and every wire between them"),
    "mesh/core/dissemination.py": (
        613,
        "one machine; its neighbours and words are files of their own already",
    ),
}
LONG_FUNCTIONS: dict[str, tuple[int, str]] = {
    "mesh/agent/node.py:__init__": (
        90,
        "the composition root: one line for each part, in the order they need",
    ),
}
UNFINISHED = re.compile("|".join(["TO" + "DO", "FIX" + "ME", r"\bXX" + "X\\b", "HA" + "CK"]))


def product_files() -> list[Path]:
    """Every source file that is not a test."""
    found = [*ROOT.glob("mesh/**/*.py"), *ROOT.glob("cmd/**/*.py"), *ROOT.glob("scripts/lib/**/*.py")]
    found += [path for path in ROOT.glob("scripts/*") if path.is_file() and path.read_bytes()[:2] == b"#!"]
    return sorted(found)


def test_files() -> list[Path]:
    return sorted(ROOT.glob("tests/**/*.py"))


test_files.__test__ = False  # type: ignore[attr-defined]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines of every function, nested ones by themselves."""
    if path.suffix not in ("", ".py"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def spans(tree: ast.AST) -> Iterator[ast.expr]:
    """What trio is told to wait for at most."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "trio.sleep",
            "trio.move_on_after",
            "trio.fail_after",
        ):
            yield node.args[0]


def test_a_span_that_somebody_gives_or_counts_down_is_never_below_zero() -> None:
    """Else trio raises ValueError: an agent that was stopped meanwhile once ended of it when it went on."""
    open_ = [
        f"{path.relative_to(ROOT)}:{span.lineno} {ast.unparse(span)}"
        for path in product_files()
        if path.suffix == ".py"
        for span in spans(ast.parse(path.read_text()))
        if (isinstance(span, ast.Name) and not span.id.isupper())
        or (isinstance(span, ast.BinOp) and isinstance(span.op, ast.Sub))
    ]
    assert open_ == [], "max(0.0, …)"


def test_there_is_source_to_look_at() -> None:
    assert len(product_files()) > 20


def test_no_file_is_too_long_to_read_at_once() -> None:
    too_long = {}
    for path in product_files():
        name = str(path.relative_to(ROOT))
        lines = len(path.read_text().splitlines())
        allowed, _ = LONG_FILES.get(name, (FILE_LINES_MAX, ""))
        if lines > allowed:
            too_long[name] = lines
    assert too_long == {}


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = {}
    for path in product_files():
        for name, lines in functions(path):
            full = f"{path.relative_to(ROOT)}:{name}"
            allowed, _ = LONG_FUNCTIONS.get(full, (FUNCTION_LINES_MAX, ""))
            if lines > allowed:
                too_long[full] = lines
    assert too_long == {}


def test_every_exception_to_a_size_is_still_needed_and_has_a_reason() -> None:
    for name, (_, reason) in LONG_FILES.items():
        assert len((ROOT / name).read_text().splitlines()) > FILE_LINES_MAX, name
        assert reason, name
    for full, (_, reason) in LONG_FUNCTIONS.items():
        name, _, function = full.partition(":")
        lengths = [lines for found, lines in functions(ROOT / name) if found == function]
        assert max(lengths, default=0) > FUNCTION_LINES_MAX, full
        assert reason, full


@pytest.mark.parametrize(
    "path", [*product_files(), *test_files()], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_nothing_is_left_for_later() -> None:
    left = []
    for path in [*product_files(), *test_files(), *ROOT.glob("*.md"), *ROOT.glob("configs/**/*")]:
        if path.is_file():
            lines = enumerate(path.read_text().splitlines(), 1)
            left += [
                f"{path.relative_to(ROOT)}:{number}" for number, line in lines if UNFINISHED.search(line)
            ]
    assert left == []


def test_the_folder_cmd_never_shadows_the_module_cmd() -> None:
    assert not (ROOT / "cmd" / "__init__.py").exists()
    assert issubclass(pdb.Pdb, cmd.Cmd)


def test_the_readme_has_one_row_for_every_room() -> None:
    rooms = {f"mesh/{path.parent.name}" for path in ROOT.glob("mesh/*/__init__.py")}
    rooms |= {f"mesh/{path.name}" for path in ROOT.glob("mesh/*.py") if path.name != "__init__.py"}
    rooms |= {f"cmd/{path.parent.name}" for path in ROOT.glob("cmd/*/__init__.py")}
    rows = re.findall(r"^\| `((?:mesh|cmd)/[^`]+?)/?` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(rooms)


def test_the_defaults_file_lists_exactly_the_defaults() -> None:
    """`python -m mesh.settings > configs/meshd.toml` mends it."""
    assert (ROOT / "configs" / "meshd.toml").read_text() == defaults_file()


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/presets/*.toml")), ids=lambda path: path.stem)
def test_every_preset_is_accepted_and_changes_something(path: Path) -> None:
    assert load(str(path), environ={"HOME": "/nowhere"}).origins


def test_every_knob_is_read_by_something() -> None:
    readers = [path for path in product_files() if path.name not in ("config.py", "settings.py")]
    text = "\n".join(path.read_text() for path in readers)
    unread = [knob.name for knob in knobs().values() if not re.search(rf"\.{knob.key}\b", text)]
    assert unread == []
