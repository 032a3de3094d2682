"""Every verb as a person calls it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.admin.memory import ID, Features

Run = Callable[..., Any]


def test_members_as_json_is_the_body_of_the_api(meshctl: Run) -> None:
    members = json.loads(meshctl("members", "-o", "json").out)
    assert [member["name"] for member in members] == ["alpha", "beta", "gamma"]
    promised = {"id", "name", "state", "incarnation", "addresses", "labels", "zone", "rtt_ms", "last_seen_s"}
    assert all(promised <= member.keys() for member in members)


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "name", "kv", "ls", "order/"],
        ["kv", "-o", "name", "ls", "order/"],
        ["kv", "ls", "-o", "name", "order/"],
        ["kv", "ls", "order/", "-oname"],
        ["kv", "ls", "order/", "--output=name"],
    ],
)
def test_the_format_may_stand_anywhere(meshctl: Run, words: list[str]) -> None:
    meshctl("kv", "put", "order/key", "1")
    assert meshctl(*words).out == "order/key\n"


def test_the_socket_may_stand_anywhere_and_wins(meshctl: Run, socket_path: str) -> None:
    assert meshctl("--socket", socket_path, "version", MESHCTL_SOCKET="/none").code == 0
    assert meshctl("kv", f"--socket={socket_path}", "ls", "none/", MESHCTL_SOCKET="/none").code == 0
    assert meshctl("members", "--socket", "/none").code == 3


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["kv", "get", "never-written"], 4),
        (["kv", "delete", "never-written"], 4),
        (["node", "show", "nobody"], 4),
        (["cert", "show", "nobody"], 4),
        (["metrics", "no.such.metric"], 4),
        (["node", "force-leave", "alpha"], 5),
        (["node", "drain", "nobody", "--wait"], 4),
        (["node", "drain", "alpha", "--timeout", "1s"], 2),
        (["node", "drain", "alpha", "--wait", "--timeout", "nan"], 2),
        (["node", "drain", "alpha", "--wait", "--timeout", "10ms"], 7),
        (["kv", "cas", "never-written", "1", "--expect", "2"], 5),
        (["ping", "gamma", "-c", "1", "--timeout", "10ms"], 7),
        (["query", "nobody-serves-this"], 7),
        (["query", "nobody-serves-this", "-l", "name=alpha"], 4),
        (["query", "nobody-serves-this", "-l", "name=alpha", "-o", "json"], 4),
        (["query", "load", "-l", "name=nobody"], 4),
        (["request", "alpha", "nobody-serves-this", "--json", "1"], 4),
        (["members", "--socket", "/no/such.sock"], 3),
        (["kv", "put", "k"], 2),
        (["kv", "put", "", "v"], 2),
        (["kv", "put", "k", "{", "--json"], 2),
        (["kv", "put", "k", "NaN", "--json"], 2),
        (["kv", "put", "k", "v", "--ttl", "soon"], 2),
        (["kv", "put", "k", "v", "--ttl", "-5s"], 2),
        (["kv", "put", "k", "v", "--ttl", "1_0"], 2),
        (["kv", "put", "k", "v", "--ttl", "99999999999s"], 2),
        (["request", "alpha", "load", "--timeout", "1e300d"], 2),
        (["workload", "remove", "seen", "alpha", "--wait", "nan"], 2),
        (["metrics", "--last", "inf"], 2),
        (["kv", "put", "k", "v", "--durable", "0"], 2),
        (["kv", "put", "k", "v", "--scope", "galaxy"], 2),
        (["kv", "put", "k", "x" * 70_000], 2),
        (["kv", "put", "k", "@missing-file"], 4),
        (["kv", "put", "k", "@/"], 1),
        (["kv", "cas", "k", "v"], 2),
        (["kv", "cas", "k", "v", "--absent", "--hlc", "1"], 2),
        (["members", "-o", "xml"], 2),
        (["members", "--state", "happy"], 2),
        (["members", "--label", "nonsense"], 2),
        (["invite", "create", "--uses", "0"], 2),
        (["frobnicate"], 2),
        (["kv", "frobnicate"], 2),
        (["kv"], 2),
        ([], 2),
        (["log-level", "loud"], 2),
        (["restore", "missing-file"], 4),
        (["log", "read", "never-written"], 4),
        (["kv", "put", "k", '{"a": 1, "a": 2}', "--json"], 2),
        (["leave"], 2),
        (["node", "forget", "gamma"], 2),
        (["node", "prune", "--older-than", "1h"], 2),
        (["cert", "revoke", "gamma"], 2),
        (["invite", "revoke", "x", "--remove-admitted"], 2),
        (["policy", "reset"], 2),
        (["backup", "/no/such/directory/file"], 1),
    ],
)
def test_exit_codes_and_errors_of_three_lines(meshctl: Run, words: list[str], code: int) -> None:
    done = meshctl(*words)
    assert done.code == code, done
    assert "Traceback" not in done.err
    if words[1:]:
        what, why, hint = done.err.splitlines()[-3:]
        assert what.startswith("error: ")
        assert why.startswith("  why: ")
        assert hint.startswith("  try: ")
        assert len(hint) > len("  try: ")


def test_what_is_no_number_is_told_in_plain_words(meshctl: Run) -> None:
    assert "error: --count/-c 'nan' is not a whole number" in meshctl("ping", "alpha", "-c", "nan").err
    assert "error: --size '' is not a number" in meshctl("service", "resolve", "x", "--size", "").err
    assert "is too long a time" in meshctl("events", "--last", "99999999999s").err


def test_what_needs_a_yes_says_so_and_does_nothing_without(meshctl: Run, features: Features) -> None:
    assert "--yes" in meshctl("leave").err
    assert not features.members.left
    assert meshctl("leave", "--yes").code == 0
    assert features.members.left


@pytest.mark.parametrize(
    "words", [["--help"], ["version"], ["members", "-o", "json"], ["kv", "put", "-h"], ["backup", "-"]]
)
def test_output_that_cannot_be_written_is_an_error(environ: dict[str, str], words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "meshctl", *words], env=environ, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert [line.split(b":")[0].strip() for line in done.stderr.splitlines()] == [b"error", b"why", b"try"]
    assert b"No space left" in done.stderr


def test_a_backup_replaces_no_file_unless_forced(meshctl: Run, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("precious")
    assert meshctl("backup", "old").code == 5
    assert (tmp_path / "old").read_text() == "precious"
    assert meshctl("backup", "old", "--force").code == 0
    assert (tmp_path / "old").read_bytes().startswith(b"backup")


def test_refused_values_are_told_as_they_were_typed(meshctl: Run) -> None:
    what, _, hint = meshctl("invite", "create", "--uses", "0").err.splitlines()
    assert what == "error: --uses: 0 is not a whole number of at least 1"
    assert hint == "  try: meshctl invite create --help"


def test_a_query_that_reaches_nobody_says_why(meshctl: Run) -> None:
    assert "nobody serves 'x'" in meshctl("query", "x", "-l", "name=alpha").err
    assert "matches name=nobody" in meshctl("query", "x", "-l", "name=nobody").err
    assert "nothing on alpha serves 'x'" in meshctl("request", "alpha", "x").err


def test_a_typing_mistake_is_answered_with_the_right_word(meshctl: Run) -> None:
    assert "members" in meshctl("membres").err
    assert "delete" in meshctl("kv", "delte").err


def test_put_and_get_of_text_json_files_and_standard_input(meshctl: Run, tmp_path: Path) -> None:
    meshctl("kv", "put", "v/text", "hëllo")
    assert meshctl("kv", "get", "v/text").out == "hëllo\n"
    meshctl("kv", "put", "v/json", '{"a": [1, null]}', "--json")
    assert json.loads(meshctl("kv", "get", "v/json").out) == {"a": [1, None]}
    (tmp_path / "data.bin").write_bytes(b"\x00\x1b[31m\xff")
    meshctl("kv", "put", "v/file", "@data.bin")
    assert json.loads(meshctl("kv", "get", "v/file").out) == {"base64": "ABtbMzFt/w=="}
    meshctl("kv", "put", "v/stdin", "-", input=b"piped")
    assert json.loads(meshctl("kv", "get", "v/stdin", "-o", "json").out)["value"] == {"base64": "cGlwZWQ="}
    assert meshctl("kv", "get", "v/stdin", "--raw").out == "piped"
    meshctl("kv", "put", "v/at", "@home", "--text")
    assert meshctl("kv", "get", "v/at").out == "@home\n"
    meshctl("kv", "put", "v/minus", "-5")
    assert meshctl("kv", "get", "v/minus").out == "-5\n"


def test_kv_get_as_json_has_the_promised_keys(meshctl: Run) -> None:
    meshctl("kv", "put", "promised", "x")
    entry = json.loads(meshctl("kv", "get", "promised", "-o", "json").out)
    assert {"key", "type", "value", "author", "hlc", "conflicts"} <= entry.keys()
    assert isinstance(entry["hlc"], str)


def test_scopes_are_apart(meshctl: Run) -> None:
    meshctl("kv", "put", "scoped", "here", "--scope", "zone")
    assert meshctl("kv", "get", "scoped").code == 4
    assert meshctl("kv", "get", "scoped", "--scope", "zone").out == "here\n"


def test_a_write_says_nothing_unless_asked(meshctl: Run) -> None:
    assert meshctl("kv", "put", "quiet", "x")[:2] == (0, "")
    assert json.loads(meshctl("kv", "put", "quiet", "x", "-o", "json").out)["key"] == "quiet"


def test_compare_and_set(meshctl: Run) -> None:
    assert meshctl("kv", "cas", "c", "1", "--absent", "--json").code == 0
    assert meshctl("kv", "cas", "c", "2", "--expect", "1", "--json").code == 0
    hlc = json.loads(meshctl("kv", "get", "c", "-o", "json").out)["hlc"]
    assert meshctl("kv", "cas", "c", "3", "--hlc", hlc).code == 0
    assert meshctl("kv", "cas", "c", "4", "--hlc", hlc).code == 5


def test_pages_are_read_to_the_end(meshctl: Run, tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"key": f"many/{number:05}", "value": number}) for number in range(2500))
    assert meshctl("kv", "import", "-", input=rows).code == 0
    assert meshctl("kv", "ls", "many/", "-o", "name").out.count("\n") == 2500
    assert len(json.loads(meshctl("kv", "ls", "many/", "-o", "json").out)) == 2500


def test_the_other_types(meshctl: Run) -> None:
    meshctl("set", "add", "t/s", "b", "a", "b")
    assert meshctl("set", "members", "t/s").out == "a\nb\n"
    meshctl("set", "remove", "t/s", "a")
    assert meshctl("set", "members", "t/s", "-o", "name").out == "b\n"
    assert meshctl("counter", "add", "t/c", "5").out == "5\n"
    assert meshctl("counter", "add", "t/c", "-7").out == "-2\n"
    assert meshctl("counter", "get", "t/c").out == "-2\n"
    meshctl("map", "set", "t/m", "cpu", "80", "--json")
    assert meshctl("map", "get", "t/m", "cpu").out == "80\n"
    assert meshctl("map", "get", "t/m", "gpu").code == 4
    meshctl("map", "del", "t/m", "cpu")
    assert meshctl("map", "get", "t/m").out == "{}\n"
    meshctl("flag", "enable", "t/f")
    assert meshctl("flag", "get", "t/f").out == "true\n"
    meshctl("flag", "disable", "t/f")
    assert meshctl("flag", "get", "t/f").out == "false\n"
    meshctl("log", "append", "t/l", "one")
    meshctl("log", "append", "t/l", "two")
    rows = json.loads(meshctl("log", "read", "t/l", "-o", "json").out)
    assert [row["value"] for row in rows] == ["one", "two"]
    meshctl("mv", "put", "t/mv", "x")
    assert meshctl("mv", "get", "t/mv").out == "x\n"
    assert meshctl("mv", "delete", "t/mv").code == 0
    assert meshctl("mv", "get", "t/mv").code == 4


def test_a_conflict_is_shown_not_hidden(meshctl: Run, features: Features) -> None:
    meshctl("mv", "put", "torn", "ours")
    other = {"value": "theirs\x1b[2J", "author": ID, "author_name": "beta", "hlc": "1"}
    time = "2026-01-01T00:00:00.000Z"
    features.kv._entries["mesh", "torn", "mv"]["conflicts"] = [{**other, "time": time, "deleted": False}]
    done = meshctl("mv", "get", "torn")
    assert done.out == "ours\n"
    assert "conflict: 1 more" in done.err
    assert r"theirs\x1b[2J by beta" in done.err
    assert json.loads(meshctl("mv", "get", "torn", "-o", "json").out)["conflicts"][0]["author_name"] == "beta"
    assert r"theirs\x1b[2J by beta" in meshctl("mv", "get", "torn", "-o", "wide").out


def test_control_characters_are_never_printed_raw(meshctl: Run, features: Features) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m\u202eevil\x9b2J\r\n"
    features.kv._entries.clear()
    meshctl("kv", "put", f"k{evil}", evil)
    meshctl("node", "label", "beta", f"site={evil}")
    features.members.all[features.members.names()[2][0]]["name"] = f"gamma{evil}"
    try:
        for form in ("table", "wide", "json", "jsonl", "name"):
            for words in (["kv", "ls"], ["kv", "get", f"k{evil}"], ["members"], ["node", "show", "beta"]):
                done = meshctl(*words, "-o", form)
                assert done.code == 0
                kept = "\r\n\t" if words[1:2] == ["get"] and form == "table" else "\n"
                assert all(char.isprintable() or char in kept for char in done.out + done.err), (words, form)
        assert json.loads(meshctl("kv", "ls", "-o", "json").out)[0]["key"] == f"k{evil}"
        assert "\x1b" not in meshctl("kv", "get", f"missing{evil}").err
    finally:
        features.members.all[features.members.names()[2][0]]["name"] = "gamma"
        features.kv._entries.clear()
        meshctl("node", "label", "beta", "site-")


def test_labels_are_set_and_removed(meshctl: Run) -> None:
    assert meshctl("node", "label", "beta", "site=attic", "rack=3").code == 0
    assert meshctl("members", "--label", "site=attic", "-o", "name").out == "beta\n"
    meshctl("node", "label", "beta", "site-", "rack-")
    assert meshctl("members", "--label", "site=attic", "-o", "name").out == ""


@pytest.mark.parametrize("verb", ["drain", "undrain", "cordon", "uncordon"])
def test_orders_to_a_node(meshctl: Run, verb: str) -> None:
    done = meshctl("node", verb, "beta", "-o", "json")
    assert (verb in json.loads(done.out)["flags"]) == (not verb.startswith("un"))
    assert "beta" in meshctl("node", f"un{verb}".removeprefix("unun"), "beta").out


def test_prune_lists_in_a_dry_run(meshctl: Run) -> None:
    done = meshctl("node", "prune", "--older-than", "1h", "--dry-run", "-o", "name")
    assert done.out == "gamma\n"
    assert meshctl("members", "--state", "dead", "-o", "name").out == "gamma\n"


def test_an_invite_prints_only_its_token(meshctl: Run) -> None:
    done = meshctl("invite", "create", "--uses", "3", "--ttl", "1h", "-l", "site=lab")
    assert done.out.startswith("mesh1-")
    assert done.out.count("\n") == 1
    rows = json.loads(meshctl("invite", "ls", "-o", "json").out)
    assert (rows[0]["uses"], rows[0]["labels"]) == (3, {"site": "lab"})
    assert "token" not in rows[0]
    assert meshctl("invite", "revoke", rows[0]["id"]).code == 0
    assert "revoked" in meshctl("invite", "ls").out


def test_a_backup_is_whole_and_for_its_owner_alone(meshctl: Run, tmp_path: Path, features: Features) -> None:
    assert meshctl("backup", "copy.bak").code == 0
    assert oct((tmp_path / "copy.bak").stat().st_mode & 0o777) == "0o600"
    assert not list(tmp_path.glob("*.part"))
    assert meshctl("restore", "copy.bak", "--yes").code == 0
    assert features.status.restored == (tmp_path / "copy.bak").read_bytes()
    (tmp_path / "bad.bak").write_text("nonsense")
    assert meshctl("restore", "bad.bak", "--yes").code == 2
    features.status.restored = b""
    assert meshctl("restore", "copy.bak", "--yes", "--timeout", "soon").code == 2
    assert features.status.restored == b"", "it is refused before anything is replaced"
    features.status.comes_back = False
    late = meshctl("restore", "copy.bak", "--yes", "--timeout", "300ms")
    assert (late.code, "not back" in late.err) == (7, True)
    assert meshctl("backup", "-").out.startswith("backup")
    assert meshctl("debug", "bundle", "b.tgz").code == 0


def test_version_works_without_an_agent(meshctl: Run) -> None:
    done = meshctl("version", "--socket", "/none")
    assert done.code == 0
    assert "not reachable" in done.out
    assert json.loads(meshctl("version", "-o", "json").out)["agent"]["version"]


def test_ping_counts_what_it_lost(meshctl: Run) -> None:
    done = meshctl("ping", "beta", "-c", "2", "-i", "10ms")
    assert [json.loads(line)["rtt_ms"] for line in done.out.splitlines()] == [0.4, 0.4]
    assert "2 sent, 0 lost" in done.err
    assert meshctl("ping", "beta", "-c", "0").code == 2


def test_pub_and_sub_with_replay(meshctl: Run) -> None:
    meshctl("pub", "rooms/attic", '{"t": 21}', "--json", "--qos", "1")
    line = json.loads(meshctl("sub", "rooms/#", "--replay", "1", "-n", "1").out)
    assert (line["topic"], line["payload"], line["replayed"]) == ("rooms/attic", {"t": 21}, True)
    assert (
        meshctl("sub", "rooms/#", "--replay", "1", "-n", "1", "-o", "table").out == 'rooms/attic  {"t": 21}\n'
    )


class Going:
    """A command that runs until it is told to stop."""

    def __init__(self, environ: dict[str, str], *words: str) -> None:
        command = [sys.executable, "-m", "meshctl", *words]
        self.process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        _, err = self.process.communicate()
        return self.process.returncode, err


def test_streams_are_json_lines_and_end_cleanly_on_interrupt(environ: dict[str, str], meshctl: Run) -> None:
    going = Going(environ, "members", "--watch")
    changes = [going.line()["change"] for _ in range(4)]
    assert changes == ["present", "present", "present", "ready"]
    meshctl("node", "cordon", "beta")
    assert going.line()["member"]["flags"] == ["cordon"]
    meshctl("node", "uncordon", "beta")
    assert going.end() == (130, "")


def test_kv_ls_watch_shows_what_is_there_and_then_changes(environ: dict[str, str], meshctl: Run) -> None:
    meshctl("kv", "put", "live/a", "1")
    going = Going(environ, "kv", "ls", "live/", "--watch")
    assert (going.line()["key"], going.line()["change"]) == ("live/a", "ready")
    meshctl("kv", "delete", "live/a")
    assert going.line()["change"] == "delete"
    assert going.end()[0] == 130


def test_events_watch(environ: dict[str, str], features: Features) -> None:
    going = Going(environ, "events", "--watch", "--cursor", "0")
    assert going.line()["type"] == "node_registered"
    assert going.end() == (130, "")


def test_a_reader_that_goes_away_ends_it_quietly(environ: dict[str, str], meshctl: Run) -> None:
    rows = "\n".join(json.dumps({"key": f"pipe/{number}", "value": "x" * 1000}) for number in range(2000))
    meshctl("kv", "import", "-", input=rows)
    command = f"{sys.executable} -m meshctl kv export pipe/ | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=environ, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def on_a_terminal(environ: dict[str, str], *words: str, answer: str = "") -> tuple[int, str]:
    """Run with standard input, output and error on a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "meshctl", *words], {**environ, "TERM": "xterm"})
    os.write(terminal, answer.encode())
    text = b""
    try:
        while piece := os.read(terminal, 65536):
            text += piece
    except OSError:
        pass  # Linux reports the end of a terminal's other side as EIO
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text.decode()


def test_colour_only_on_a_terminal_without_no_color(environ: dict[str, str], meshctl: Run) -> None:
    assert "\x1b[32malive" in on_a_terminal(environ, "members")[1]
    assert "\x1b" not in on_a_terminal({**environ, "NO_COLOR": "1"}, "members")[1]
    assert "\x1b" not in meshctl("members").out


def test_json_is_indented_for_a_terminal(environ: dict[str, str]) -> None:
    assert '\r\n  "name": "alpha"' in on_a_terminal(environ, "status", "-o", "json")[1]


def test_what_cannot_be_undone_is_asked_on_a_terminal(environ: dict[str, str], features: Features) -> None:
    code, text = on_a_terminal(environ, "leave", answer="n\n")
    assert (code, features.members.left) == (2, False)
    assert "nothing was done" in text
    code, _ = on_a_terminal(environ, "leave", answer="y\n")
    assert (code, features.members.left) == (0, True)


def test_progress_is_shown_on_a_terminal_only(environ: dict[str, str], meshctl: Run, tmp_path: Path) -> None:
    assert "saved:" in on_a_terminal(environ, "backup", str(tmp_path / "b"))[1]
    assert "saved:" not in meshctl("backup", "b").err


def test_undecodable_arguments_are_refused_not_crashed_on(environ: dict[str, str]) -> None:
    for words in ([b"kv", b"put", b"k\xff", b"v"], [b"kv", b"put", b"k", b"v\xff"], [b"kv", b"get", b"\xff"]):
        done = subprocess.run([sys.executable, "-m", "meshctl", *words], env=environ, capture_output=True)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr
