"""The measurements of `scripts/bench` about messages: requests, events, and topics beside other brokers."""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from brokers import Broker, brokers
from figures import Figures, ratios
from measure import fleet, running, wait

from mesh.client import Client
from mesh.errors import MeshError

HERE = Path(__file__).resolve().parent
ROUNDS = 5
REQUESTS = 200
SIZE = 64
PACES_PER_S, PACED_S, FLOOD_S = (20, 200), 2.0, 2.0
WARM_S = 1.0
QUIET_S = 8.0
END_S = 5.0


# -- requests -----------------------------------------------------------------------------------------------


def echo(script: str) -> AbstractContextManager[str]:
    """The address of an echo in a process of its own."""
    return running(str(HERE / script), "server")


def _asked(script: str, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, str(HERE / script), "client", *words], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def requests(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """A 64-byte request from a program here to one at another agent, beside plain trio TCP and py-libp2p.

    "Through both sockets" is asker → its agent → the other agent → the program that serves, and back, all in
    processes of their own; "inside" is the held link between the agents alone. Each round takes all of them.
    """
    figures.configuration(
        "requests, trio TCP", f"one kept connection, {SIZE} B there and back, two processes"
    )
    figures.configuration("requests, py-libp2p", "stock host, Noise and Yamux, one held stream, 100 B")
    rounds: dict[str, list[list[float]]] = {}
    with fleet(programs, 2) as made, echo("plain_echo.py") as port, echo("stock_libp2p.py") as address:
        asker, server = made.clients()

        def serve() -> None:
            with contextlib.suppress(MeshError):  # ends with its agent
                server.handle("echo", lambda payload: payload)

        threading.Thread(target=serve, daemon=True).start()
        time.sleep(WARM_S)
        for round_ in range(ROUNDS + 1):
            found = {
                "through": _times(lambda: asker.request("node-2", "echo", "x" * SIZE)),
                "inside": [asker.ping("node-2")["rtt_ms"] for _ in range(REQUESTS)],
                "socket": _times(asker.version),
                "plain": _asked("plain_echo.py", port, str(REQUESTS), str(SIZE))[20:],
                "stock": _asked("stock_libp2p.py", address, str(REQUESTS), "0")["rtt_ms"][20:],
            }
            for name, times in found.items() if round_ else ():  # the first warms up
                rounds.setdefault(name, []).append(times)
    middle = {name: [statistics.median(times) for times in of] for name, of in rounds.items()}
    every = {name: [one for times in of for one in times] for name, of in rounds.items()}
    figures.add("request through both sockets", every["through"], "ms", "", "NATS 0.39")
    figures.add("round trip on the held link, inside", every["inside"], "ms", "")
    figures.add("the socket's own cost", every["socket"], "ms", "")
    figures.add("plain trio TCP here", every["plain"], "ms", "")
    figures.add("a held py-libp2p stream here", every["stock"], "ms", "", "0.5-0.67")
    of_stock = ratios(middle["inside"], middle["stock"])
    figures.add("inside, of a held py-libp2p stream's", of_stock, "times", "<= 1.5")
    for name, what in (("inside", "inside"), ("through", "through both sockets")):
        of_plain = ratios(middle[name], middle["plain"])
        figures.add(f"{what}, of plain trio TCP's", of_plain, "times", "")


def _times(call: Callable[[], Any]) -> list[float]:
    times = []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        call()
        times.append((time.perf_counter() - begun) * 1000)
    return times


# -- events -------------------------------------------------------------------------------------------------


def events(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """500 events a second over all agents for 5 s, each agent publishing its share: share delivered."""
    rate, seconds = 500, 5.0
    with fleet(programs, options.small) as made:
        clients = made.clients()
        counts = [0] * len(clients)

        def listen(number: int, stream: Any) -> None:
            with contextlib.suppress(Exception):
                for line in stream:
                    counts[number] += "payload" in line

        streams = [Client(str(node.socket)).subscribe("bench/#") for node in made.nodes]
        for number, stream in enumerate(streams):
            threading.Thread(target=listen, args=(number, stream), daemon=True).start()
        time.sleep(2.0)
        sent = [0] * len(clients)

        def publish(number: int) -> None:
            begun, share = time.monotonic(), rate / len(clients)
            while (elapsed := time.monotonic() - begun) < seconds:
                if sent[number] <= elapsed * share:
                    clients[number].publish("bench/event", {"n": sent[number], "pad": "x" * 40})
                    sent[number] += 1
                else:
                    time.sleep(0.001)

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(len(clients))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = sum(sent)
        with contextlib.suppress(TimeoutError):
            deadline = time.monotonic() + 10.0
            wait(lambda: min(counts) >= expected or time.monotonic() > deadline)
        for stream in streams:
            stream.close()
    figures.add("events sent per second", [expected / seconds], "/s", "500")
    delivered = [count / expected * 100 for count in counts]
    figures.add(f"events delivered over {options.small} agents", delivered, "%", "100", "Serf 46")


# -- topics -------------------------------------------------------------------------------------------------


class Program:
    """A publisher or a subscriber of one broker, in a process of its own; see `topic_program.py`."""

    def __init__(self, role: str, broker: Broker) -> None:
        words = [sys.executable, str(HERE / "topic_program.py"), role, broker.kind, broker.address(role)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the program ended with status {self._process.wait()}")
        return json.loads(line)

    def ask(self, *words: object) -> Any:
        """Send a command and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def end(self) -> None:
        """Let it go: it ends with its standard input."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Found:
    """What one broker did, round by round."""

    def __init__(self) -> None:
        self.times: dict[int, list[float]] = {pace: [] for pace in PACES_PER_S}
        self.medians: dict[int, list[float]] = {pace: [] for pace in PACES_PER_S}
        self.sent: list[float] = []
        self.rates: list[float] = []
        self.delivered: list[float] = []


def pubsub(figures: Figures, programs: Path, options: argparse.Namespace) -> None:
    """One publisher, one subscriber, messages of 64 bytes: time one way, messages a second, share delivered.

    The same two programs with the same payloads on each side, a round of each in turn: 20 and 200 a second
    for the time one way (ours gathers from 250 on), then as fast as the side's own client takes
    them. Zenoh, NATS and mosquitto where installed.
    """
    with brokers(figures, programs) as found:
        results = {broker.name: Found() for broker in found}
        with contextlib.ExitStack() as stack:
            sides = []
            for broker in found:
                figures.configuration(f"pub/sub, {broker.name}", broker.configuration)
                subscriber, publisher = Program("subscribe", broker), Program("publish", broker)
                for program in (subscriber, publisher):
                    stack.callback(program.end)
                sides.append((broker.name, subscriber, publisher))
            time.sleep(WARM_S)
            for round_ in range(ROUNDS + 1):
                for name, subscriber, publisher in sides:
                    _round(results[name] if round_ else Found(), subscriber, publisher)
    for name, result in results.items():
        for pace, times in result.times.items():
            figures.add(f"pub/sub one way, {pace} a second: {name}", times, "ms", "")
        figures.add(f"pub/sub taken from the program: {name}", result.sent, "/s", "")
        figures.add(f"pub/sub received: {name}", result.rates, "/s", "")
        figures.add(f"pub/sub delivered of a flood: {name}", result.delivered, "%", "")
    ours = results["mesh"]
    for name, theirs in results.items():
        if theirs is not ours:
            for pace, medians in ours.medians.items():
                of_theirs = ratios(medians, theirs.medians[pace])
                figures.add(f"pub/sub one way, {pace} a second, of {name}'s", of_theirs, "times", "")
            figures.add(
                f"pub/sub received, of {name}'s", ratios(ours.rates, theirs.rates, percent=True), "%", ""
            )


def _round(result: Found, subscriber: Program, publisher: Program) -> None:
    subscriber.ask("report")
    for pace in PACES_PER_S:
        publisher.ask("pace", pace, PACED_S)
        time.sleep(0.3)
        times = subscriber.ask("report")["times_ms"]
        result.times[pace] += times
        result.medians[pace].append(statistics.median(times))
    sent = publisher.ask("flood", FLOOD_S)
    got, quiet_since, count = {}, time.monotonic(), -1
    # Until all are there, or nothing comes any more: who has filled its share of the tail waits for seconds.
    while count < sent["count"] and time.monotonic() - quiet_since < QUIET_S:
        time.sleep(0.1)
        got = subscriber.ask("count")
        if got["count"] != count:
            quiet_since, count = time.monotonic(), got["count"]
    subscriber.ask("report")
    result.sent.append(sent["count"] / sent["seconds"])
    result.rates.append(got["count"] / max(got["seconds"], 1e-9))
    result.delivered.append(got["count"] / sent["count"] * 100)


MEASUREMENTS: dict[str, Callable[[Figures, Path, argparse.Namespace], None]] = {
    each.__name__: each for each in (requests, events, pubsub)
}
