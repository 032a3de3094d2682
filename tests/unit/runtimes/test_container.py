"""Containers by the API of a real Podman, started for this module alone; skipped where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from engines import IMAGE, missing, podman_socket

from mesh.errors import Conflict, Failed, MeshError, NotFound, UsageError
from mesh.runtimes import watchdog
from mesh.runtimes.base import Directory, Exit, Launch, Limits, Port, Running, boottime_s
from mesh.runtimes.container import Containers
from mesh.runtimes.engine import Engine
from mesh.runtimes.folders import Folder

MIB = 1024 * 1024
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with podman_socket() as path:
        yield path


@pytest.fixture
async def containers(socket: str, root: Path) -> AsyncIterator[Containers]:
    yield Containers(socket, root, "test")
    engine = Engine(socket)
    for row in await engine.list("mesh.node=test"):
        await engine.remove(row["Id"])
    watchdog.reap()


def shell(script: str, **more: object) -> Launch:
    words = {"instance": "app/0", "workload": "app", "argv": ("/bin/sh", "-c", script), **more}
    return Launch(runtime="container", image=str(words.pop("image", IMAGE)), **words)  # type: ignore[arg-type]


async def text_of(containers: Containers, instance: str = "app/0") -> list[str]:
    async with aclosing(containers.logs(instance, tail=1000, follow=False)) as lines:
        return [line.text async for line in lines]


async def over(running: Running) -> Exit:
    with trio.fail_after(120):
        return await running.wait()


async def test_a_container_gets_its_command_environment_and_directories(
    containers: Containers, root: Path
) -> None:
    launch = shell(
        'env; touch "$DIR_DATA/mine"; echo in ${DIR_TEMP}; ip -o link; echo err >&2; exit 7',
        epoch=3,
        env={"COLOUR": "red"},
        directories=(Directory("data"), Directory("temp", path="/t", persistent=False)),
        limits=Limits(cpu_cores=0.5, memory_bytes=64 * MIB, processes=50),
    )
    end = await over(await containers.start(launch))
    assert (end.code, end.asked) == (7, False)
    lines = await text_of(containers)
    assert {"COLOUR=red", "MESH_EPOCH=3", "DIR_DATA=/mesh/data", "DIR_TEMP=/t", "in /t", "err"} <= set(lines)
    assert not any("eth" in line for line in lines)
    assert (root / "data/app.0/data/mine").exists()


async def test_a_running_container_is_never_started_twice_and_is_adopted(
    containers: Containers, socket: str
) -> None:
    launch = shell("echo up; exec sleep 1000", epoch=4, grace_s=1.0)
    running = await containers.start(launch)
    with pytest.raises(Conflict):
        await containers.start(launch)
    again = await Containers(socket, Path("/nowhere"), "test").adopt()
    assert [(each.instance, each.epoch, each.digest) for each in again] == [("app/0", 4, launch.digest)]
    assert await Containers(socket, Path("/nowhere"), "other").adopt() == []
    with trio.fail_after(60):
        while (await running.usage()).processes != 1:
            await trio.sleep(0.05)
    end = await again[0].stop(0.2)
    assert end.asked
    assert (await over(running)).code == end.code != 0


async def test_a_log_is_followed(containers: Containers) -> None:
    await containers.start(
        shell("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000")
    )
    async with aclosing(containers.logs("app/0", tail=5000, follow=True)) as lines:
        async for line in lines:
            assert line.stream == "stdout"
            if line.text == "line 1999":
                break


async def test_too_much_memory_ends_a_container(containers: Containers) -> None:
    script = "exec dd if=/dev/zero of=/dev/null bs=200M count=1"
    end = await over(await containers.start(shell(script, limits=Limits(memory_bytes=32 * MIB))))
    assert not end.good
    assert end.code == 137 or end.why == "out of memory"


async def test_what_cannot_start_says_why(containers: Containers) -> None:
    with pytest.raises(Failed, match="image localhost:1/none:9 cannot be pulled"):
        await containers.start(shell("", image="localhost:1/none:9"))
    with pytest.raises(Failed, match="no/such"):
        await containers.start(shell("", argv=("/no/such",)))
    with pytest.raises(UsageError):
        await containers.start(shell("", image=""))
    assert await containers.adopt() == []
    with pytest.raises(NotFound):
        await text_of(containers)


async def test_ports_are_published_on_the_bridge_of_the_engine(containers: Containers) -> None:
    launch = shell("exec nc -lk -p 80 -e echo hello", network="bridge", ports=(Port(80, 0),))
    try:
        running = await containers.start(launch)
    except MeshError as error:
        pytest.skip(f"this machine cannot make bridges: {error.message[:200]}")
    await running.stop(0)


async def test_an_exclusive_container_is_killed_when_nobody_renews(containers: Containers) -> None:
    launch = shell("exec sleep 1000", exclusive=True, deadline_s=boottime_s() + 60)
    running = await containers.start(launch)
    running.renew(boottime_s() + 0.3)
    end = await over(running)
    assert end.why == "its lease was not renewed in time"
    assert not end.asked


async def test_a_container_that_somebody_removed_is_lost_not_failed(
    containers: Containers, socket: str
) -> None:
    running = await containers.start(shell("exec sleep 1000"))
    await Engine(socket).remove("mesh-test-app.0")
    assert (await over(running)).lost
    await containers.forget("app/0", keep_data=False)


async def test_secrets_reach_a_container_as_variable_and_file_and_leave_with_it(
    socket: str, root: Path, containers: Containers
) -> None:
    told = Containers(socket, root, "test", lambda name: f"value of {name}".encode())
    launch = shell(
        'echo "$PASSWORD"; echo "$(cat $SECRET_KEY)"; ls -l $SECRET_KEY; touch $SECRET_KEY 2>&- || echo kept',
        secret_env={"PASSWORD": "db"},
        secret_files=("key",),
    )
    assert (await over(await told.start(launch))).good
    lines = await text_of(containers)
    assert lines[:2] == ["value of db", "value of key"]
    assert lines[2].startswith("-rw-------")
    assert lines[-1] == "kept"
    assert not Folder(root, "app/0").secrets.exists()
    assert b"value of" not in b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


async def test_an_engine_that_repeats_a_secret_in_its_error_is_not_passed_on(socket: str, root: Path) -> None:
    told = Containers(socket, root, "test", lambda name: b"hunter2")
    with pytest.raises(MeshError) as refused:
        await told.start(shell("true", image="localhost:1/hunter2:1", secret_env={"PASSWORD": "db"}))
    assert "hunter2" not in refused.value.message + str(refused.value)
    assert "***" in refused.value.message
