"""Native processes, for real: limits, ends of every kind, adoption, the lock, the watchdog."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
import trio

from mesh.errors import Conflict, Denied, Failed, NotFound, StoreError, UsageError
from mesh.runtimes import cgroups, folders
from mesh.runtimes.base import Directory, Exit, Launch, Limits, Running, boottime_s
from mesh.runtimes.folders import Folder
from mesh.runtimes.instance import ProcessInstance
from mesh.runtimes.process import LogLimits, Processes

MIB = 1024 * 1024
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def processes(root: Path) -> Processes:
    return Processes(root, f"t{os.getpid()}", lambda: 0, LogLimits(bytes_max=64 * 1024, files=2, bytes_s=MIB))


def shell(script: str, **more: object) -> Launch:
    return Launch(**{"instance": "app/0", "workload": "app", "argv": ("/bin/sh", "-c", script), **more})  # type: ignore[arg-type]


async def text_of(processes: Processes, instance: str = "app/0") -> list[str]:
    return [line.text async for line in processes.logs(instance, tail=1000, follow=False)]


async def line_like(processes: Processes, word: str) -> str:
    """Wait for a line of the log."""
    async with aclosing(processes.logs("app/0", tail=1000, follow=True)) as lines:
        async for line in lines:
            if word in line.text:
                return line.text
    raise AssertionError


async def over(running: Running) -> Exit:
    with trio.fail_after(60):
        return await running.wait()


async def test_a_command_gets_its_own_environment_and_nothing_of_the_agents(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTS_SECRET", "1")
    launch = shell(
        "env; pwd; echo ${DIR_DATA}", env={"COLOUR": "red $1", "MESH_EPOCH": "9"}, epoch=7,
        directories=(Directory("data"), Directory("tmp-dir", persistent=False)),
    )  # fmt: skip
    assert (await over(await processes.start(launch))).good
    lines = await text_of(processes)
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert "AGENTS_SECRET" not in names
    assert {"COLOUR=red $1", "MESH_EPOCH=7", "MESH_WORKLOAD=app", "MESH_INSTANCE=app/0"} <= set(lines)
    assert {"DIR_DATA", "DIR_TMP_DIR", "PATH", "HOME"} <= names
    assert lines[-1] == lines[-2] == str(Folder(processes._root, "app/0").data / "data")


async def test_words_are_never_read_by_a_shell(processes: Processes) -> None:
    words = ("/bin/echo", "; touch x", "$(id)", "`id`", "a b", "${HOME}", "*")
    assert (await over(await processes.start(shell("", argv=words)))).good
    assert await text_of(processes) == [" ".join(words[1:])]


async def test_persistent_directories_stay_and_scratch_is_empty_at_each_start(processes: Processes) -> None:
    launch = shell(
        'ls "$DIR_KEEP" "$DIR_TEMP"; touch "$DIR_KEEP/kept" "$DIR_TEMP/gone"',
        directories=(Directory("keep"), Directory("temp", persistent=False)),
    )
    await over(await processes.start(launch))
    await over(await processes.start(launch))
    assert (await text_of(processes)).count("kept") == 1
    assert "gone" not in await text_of(processes)
    await processes.forget("app/0", keep_data=False)
    assert not Folder(processes._root, "app/0").data.exists()
    with pytest.raises(NotFound):
        processes.logs("app/0", tail=1, follow=False)


async def test_a_second_start_is_refused_while_anything_lives(processes: Processes) -> None:
    running = await processes.start(shell("sleep 1000"))
    with pytest.raises(Conflict):
        await processes.start(shell("sleep 1000"))
    with pytest.raises(Conflict):
        await processes.forget("app/0", keep_data=True)
    end = await running.stop()
    assert end.asked
    assert end.signal == signal.SIGTERM


async def test_what_cannot_start_says_why(processes: Processes) -> None:
    with pytest.raises(Failed, match="/no/such: No such file"):
        await processes.start(shell("", argv=("/no/such",)))
    with pytest.raises(Failed, match="/etc/passwd: Permission denied"):
        await processes.start(shell("", argv=("/etc/passwd",)))
    for launch in (shell("", argv=()), shell("", stop_signal="SIGNO"), shell("", user="no-such-user")):
        with pytest.raises(UsageError):
            await processes.start(launch)
    with pytest.raises(UsageError, match="not a directory of this device"):
        await processes.start(shell("", directories=(Directory("d", source="/no/such"),)))
    assert (await over(await processes.start(shell("exit 3")))).code == 3


async def test_who_ignores_the_stop_signal_is_killed_after_its_grace(processes: Processes) -> None:
    running = await processes.start(shell("trap '' TERM; echo set; while :; do sleep 1000; done"))
    await line_like(processes, "set")
    end = await running.stop(0.1)
    assert end.signal == signal.SIGKILL
    assert "ignored SIGTERM" in end.why


async def test_helpers_end_with_the_command_that_started_them(processes: Processes) -> None:
    running = await processes.start(
        shell("setsid sleep 1001 & setsid sh -c 'sleep 1002 & sleep 1003' & wait")
    )
    while (await running.usage()).processes != 5:
        await trio.sleep(0.01)
    await running.stop()
    assert not running_commands(processes)


async def test_who_forks_away_is_ended_and_told_to_stay(processes: Processes) -> None:
    end = await over(await processes.start(shell("setsid sleep 1004 & exit 0")))
    assert not end.good
    assert "keep the command in the foreground" in end.why
    assert not running_commands(processes)


def running_commands(processes: Processes) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(processes._root) in process.environ().get("MESH_SCRATCH", ""):
                found.append(process.name())
        except psutil.Error:
            continue
    return found


async def test_a_flood_of_log_is_bounded_on_disk_and_in_rate(processes: Processes) -> None:
    running = await processes.start(
        shell("echo first; head -c 3000000 /dev/zero | tr '\\0' 'x' | fold; echo; echo last")
    )
    assert (await over(running)).good
    files = list(Folder(processes._root, "app/0").log.iterdir())
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 2 * 64 * 1024
    lines = await text_of(processes)
    assert lines[-1] == "last"
    assert "first" not in lines


async def test_long_lines_and_odd_bytes_are_kept(processes: Processes) -> None:
    script = r"printf 'a\rb\n\377\n'; head -c 20000 /dev/zero | tr '\0' y; printf '\nno end'; echo err >&2"
    await over(await processes.start(shell(script)))
    lines = [(line.stream, line.text) async for line in processes.logs("app/0", tail=100, follow=False)]
    texts = [text for stream, text in lines if stream == "stdout"]
    assert texts[:2] == ["a\rb", "�"]
    assert "".join(texts[2:-1]) == "y" * 20000
    assert texts[-1] == "no end"
    assert ("stderr", "err") in lines


async def test_a_log_is_followed_over_its_turns(processes: Processes) -> None:
    await processes.start(shell("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; sleep 1000"))
    assert await line_like(processes, "line 2999") == "line 2999"
    newest = [line.text async for line in processes.logs("app/0", tail=2, follow=False)]
    assert newest == ["line 2998", "line 2999"]


async def test_an_agent_that_comes_back_finds_what_runs_and_how_the_rest_ended(
    processes: Processes, root: Path
) -> None:
    await processes.start(shell("sleep 1000", epoch=4))
    await over(await processes.start(shell("exit 5", instance="app/1")))
    again = {found.instance: found for found in await Processes(root, "x", lambda: 0).adopt()}
    assert list(again) == ["app/0", "app/1"]
    assert again["app/0"].epoch == 4
    assert again["app/0"].digest == shell("sleep 1000", epoch=4).digest
    assert (await over(again["app/1"])).code == 5
    assert (await again["app/0"].stop()).asked


async def test_after_a_restart_of_the_device_nothing_counts_as_running(
    processes: Processes, root: Path
) -> None:
    await over(await processes.start(shell("exit 0")))
    folder = Folder(root, "app/0")
    state = folder.state()
    state.phase, state.boot = "running", "another boot"
    folder.write_state(state)
    end = await over(ProcessInstance(folder))
    assert end.lost
    assert end.why == "the device was restarted"


async def test_a_killed_shim_takes_everything_with_it(processes: Processes, root: Path) -> None:
    running = await processes.start(shell("setsid sh -c 'echo away; exec sleep 1005' & exec sleep 1006"))
    await line_like(processes, "away")
    os.kill(Folder(root, "app/0").state().shim, signal.SIGKILL)
    end = await over(running)
    assert "shim" in end.why
    assert not running_commands(processes)
    assert not any(Path(group).exists() for group in Folder(root, "app/0").state().groups)
    assert (await over(await processes.start(shell("exit 0")))).good


async def test_what_holds_the_lock_counts_as_running_even_without_a_shim(root: Path) -> None:
    folder = Folder(root, "app/0")
    folder.make()
    fd = folder.lock()
    holder = await trio.lowlevel.open_process(["sleep", "1007"], pass_fds=[fd])
    os.close(fd)
    with pytest.raises(Conflict):
        await Processes(root, "x", lambda: 0).start(shell("exit 0"))
    holder.kill()
    await holder.wait()
    assert not folder.held()


async def test_an_exclusive_instance_dies_with_its_deadline(processes: Processes) -> None:
    launch = shell("echo up; sleep 1000", exclusive=True, deadline_s=boottime_s() + 30)
    running = await processes.start(launch)
    await line_like(processes, "up")
    running.renew(boottime_s() - 1)
    end = await over(running)
    assert end.signal == signal.SIGKILL
    assert "lease was not renewed" in end.why
    assert not end.asked


async def test_a_lease_that_has_passed_lets_nothing_run(processes: Processes) -> None:
    end = await over(await processes.start(shell("sleep 1000", exclusive=True, deadline_s=boottime_s() - 1)))
    assert "lease" in end.why


@pytest.mark.root
@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
async def test_a_command_runs_as_its_user_and_owns_its_directories(processes: Processes) -> None:
    launch = shell(
        'id -un; touch "$DIR_DATA/mine"; touch /root/x', user="nobody", directories=(Directory("data"),)
    )
    await over(await processes.start(launch))
    lines = await text_of(processes)
    assert lines[0] == "nobody"
    assert any("denied" in line for line in lines)
    assert (Folder(processes._root, "app/0").data / "data" / "mine").owner() == "nobody"


def hungry(mib: int) -> Launch:
    program = f"import time; x = bytearray({mib} << 20); print('full', flush=True); time.sleep(1000)"
    return shell("", argv=(sys.executable, "-c", program), limits=Limits(memory_bytes=64 * MIB))


async def test_too_much_memory_ends_a_command(processes: Processes) -> None:
    """By the kernel where control groups can be written, else by RLIMIT_DATA at twice the limit."""
    end = await over(await processes.start(hungry(300)))
    assert not end.good
    assert end.why in ("out of memory", "exit status 1")


async def test_without_control_groups_rlimits_hold(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroups.make, "__defaults__", (tmp_path,))
    running = await processes.start(hungry(300))
    assert any("measuring" in note for note in running.notes)
    assert (await over(running)).code == 1
    assert any("MemoryError" in line for line in await text_of(processes))


async def test_a_file_larger_than_the_storage_limit_cannot_be_written(processes: Processes) -> None:
    launch = shell(
        'exec head -c 9000000 /dev/zero > "$DIR_DATA/x"',
        directories=(Directory("data"),),
        limits=Limits(storage_bytes=MIB),
    )
    running = await processes.start(launch)
    assert "storage limit" in (await over(running)).why
    assert (await running.usage(storage=True)).storage_bytes == MIB


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    mounted = root / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(mounted)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


@pytest.mark.root
async def test_a_full_disk_loses_lines_and_not_the_instance_or_its_end(small_disk: Path) -> None:
    full = Processes(small_disk, f"t{os.getpid()}", lambda: 0)
    script = "head -c 900000 /dev/zero | tr '\\0' 'x' | fold; echo last >&2; exit 3"
    running = await full.start(shell(script))
    assert (await over(running)).code == 3
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(StoreError):
        await full.start(shell("exit 0", instance="app/1"))
    (small_disk / "filler").unlink()
    await full.forget("app/0", keep_data=False)
    assert (await over(await full.start(shell("exit 0", instance="app/1")))).good


def test_limits_are_written_to_control_groups_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    folder = tmp_path / "mesh" / "n.app.0"
    folder.mkdir(parents=True)
    for name in ("cpu.max", "memory.max", "pids.max", "memory.swap.max", "memory.events", "memory.current"):
        (folder / name).touch()
    group = cgroups.make("app.0", "n", Limits(cpu_cores=0.5, memory_bytes=MIB, processes=9), tmp_path)
    assert group.enforced == {"cpu", "memory", "pids"}
    assert (folder / "cpu.max").read_text() == "50000 100000"
    assert (folder / "memory.max").read_text() == str(MIB)
    assert (folder / "pids.max").read_text() == "9"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert group.procs == (str(folder / "cgroup.procs"),)


def opener(**values: bytes) -> Callable[[str], bytes]:
    def open_secret(name: str) -> bytes:
        if name not in values:
            raise Denied(f"secret {name} cannot be opened here")
        return values[name]

    return open_secret


async def test_secrets_are_a_variable_and_a_private_file_and_nothing_else_has_them(root: Path) -> None:
    told = opener(db=b"hunter2", key=b"\x00hunter3")
    processes = Processes(root, f"t{os.getpid()}", lambda: 0, open_secret=told)
    launch = shell(
        'echo "$PASSWORD" | wc -c; wc -c < $SECRET_KEY; ls -l $SECRET_KEY; echo ${SECRET_KEY}; sleep 1000',
        secret_env={"PASSWORD": "db"},
        secret_files=("key",),
    )
    running = await processes.start(launch)
    place = await line_like(processes, "/key")
    lines = await text_of(processes)
    assert [int(line) for line in lines[:2]] == [8, 8]
    assert lines[2].startswith("-rw-------")
    folder = Folder(root, "app/0")
    assert folder.secrets.stat().st_mode & 0o777 == 0o700
    assert place.endswith(str(folder.secrets / "key"))
    written = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    words = Path(f"/proc/{folder.state().shim}/cmdline").read_bytes()
    words += Path(f"/proc/{folder.state().pid}/cmdline").read_bytes()
    assert b"hunter" not in written + words + repr(launch).encode()
    assert (await running.stop(0.1)).asked
    assert not folder.secrets.exists()


async def test_the_files_of_secrets_go_also_when_no_agent_or_no_shim_is_there(root: Path) -> None:
    processes = Processes(root, f"t{os.getpid()}", lambda: 0, open_secret=opener(key=b"x"))
    folder = Folder(root, "app/0")
    running = await processes.start(shell("sleep 1000", secret_files=("key",)))
    os.kill(folder.state().pid, signal.SIGKILL)
    with trio.fail_after(60):
        while folder.secrets.exists():  # nobody waits for it: the shim does this
            await trio.sleep(0.02)
    await over(running)
    running = await processes.start(shell("sleep 1000", secret_files=("key",)))
    os.kill(folder.state().shim, signal.SIGKILL)
    await over(running)
    assert not folder.secrets.exists()


async def test_a_secret_that_cannot_be_opened_or_is_no_text_starts_nothing(root: Path) -> None:
    processes = Processes(root, f"t{os.getpid()}", lambda: 0, open_secret=opener(key=b"\xff\x00hunter"))
    with pytest.raises(Denied, match="secret db cannot be opened"):
        await processes.start(shell("true", secret_env={"A": "db"}))
    with pytest.raises(UsageError, match="secret key is not text") as refused:
        await processes.start(shell("true", secret_env={"A": "key"}))
    assert "hunter" not in str(refused.value)
    assert not Folder(root, "app/0").path.exists()


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
async def test_a_secret_file_is_its_users_own(root: Path) -> None:
    processes = Processes(root, f"t{os.getpid()}", lambda: 0, open_secret=opener(key=b"x"))
    running = await processes.start(shell('cat "$SECRET_KEY"; id -un', user="nobody", secret_files=("key",)))
    assert (await over(running)).good
    assert await text_of(processes) == ["xnobody"]


async def test_a_place_for_secrets_that_somebody_else_made_is_not_used(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "sheltered", lambda root: tmp_path / "link")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(Denied, match="not this agent's own"):
        Folder(root, "app/0").write_secrets({"key": b"x"}, None)
