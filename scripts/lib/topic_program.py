"""A program that publishes or subscribes through one broker, for `scripts/bench`.

    topic_program.py subscribe|publish mesh|nats|zenoh|mqtt ADDRESS

It prints a line of JSON when it is ready and one for each command on its standard input:

    pace RATE SECONDS    publish so many a second              {"count"}
    flood SECONDS        publish as fast as the client takes   {"count", "seconds"}
    report               what came since the last report       {"times_ms"}
    count                how many came since the last report   {"count", "seconds" from first to last}

Each message is SIZE characters and begins with the moment it was sent, on the clock that all processes of
this machine share. What is special to a broker is in its class: its client as the makers
mean it to be used.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

TOPIC, SIZE = "bench/topic", 64
TOGETHER = 100
Take = Callable[[str], None]


def stamped() -> str:
    """A message that says when it was sent."""
    return f"{time.monotonic_ns():020d}".ljust(SIZE, "x")


class Broker:
    """A connection to a broker."""

    def __init__(self, address: str) -> None:
        raise NotImplementedError

    def subscribe(self, take: Take) -> None:
        """Call `take` with each message from now on."""
        raise NotImplementedError

    def publish(self, message: str) -> None:
        """Send a message, as the client does it by default."""
        raise NotImplementedError

    def flush(self) -> None:
        """Wait until what was published has left this process, where the client can tell."""

    def close(self) -> None:
        """Leave nothing behind."""

    def pace(self, rate: float, seconds: float) -> int:
        """Publish so many a second, one by one; returns how many."""
        begun, count = time.monotonic(), 0
        while (due := begun + count / rate) < begun + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            self.publish(stamped())
            count += 1
        return count

    def flood(self, seconds: float) -> int:
        """Publish as fast as possible; returns how many."""
        until, count = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            self.publish(stamped())
            count += 1
        self.flush()
        return count


class Mesh(Broker):
    """Our agent's admin socket; a flood in calls of a hundred, as other clients' buffers gather it."""

    def __init__(self, address: str) -> None:
        from mesh.client import Client

        self._client = Client(address)

    def subscribe(self, take: Take) -> None:
        stream = self._client.subscribe(TOPIC)

        def read() -> None:
            for message in stream:
                if "payload" in message:
                    take(message["payload"])

        threading.Thread(target=read, daemon=True).start()

    def publish(self, message: str) -> None:
        self._client.publish(TOPIC, message)

    def flood(self, seconds: float) -> int:
        until, count = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            self._client.publish_many(TOPIC, [stamped() for _ in range(TOGETHER)])
            count += TOGETHER
        return count


class Nats(Broker):
    """nats-py in its event loop, in a thread beside the one that reads commands."""

    def __init__(self, address: str) -> None:
        import nats

        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._client: Any = self._run(nats.connect(address))

    def _run(self, task: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result()

    def subscribe(self, take: Take) -> None:
        async def taken(message: Any) -> None:
            take(message.data.decode())

        self._run(self._client.subscribe(TOPIC.replace("/", "."), cb=taken))
        self._run(self._client.flush())

    def pace(self, rate: float, seconds: float) -> int:
        async def paced() -> int:
            begun, count = time.monotonic(), 0
            while (due := begun + count / rate) < begun + seconds:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._client.publish(TOPIC.replace("/", "."), stamped().encode())
                count += 1
            return count

        return int(self._run(paced()))

    def flood(self, seconds: float) -> int:
        async def flooded() -> int:
            subject, until, count = TOPIC.replace("/", "."), time.monotonic() + seconds, 0
            while time.monotonic() < until:
                for _ in range(100):
                    await self._client.publish(subject, stamped().encode())
                count += 100
                await asyncio.sleep(0)  # publish alone never lets the writer run
            await self._client.flush(30)
            return count

        return int(self._run(flooded()))


class Zenoh(Broker):
    """A Zenoh peer of its own: it listens, or connects to the one that does."""

    def __init__(self, address: str) -> None:
        import zenoh

        role, _, endpoint = address.partition("=")
        configuration = zenoh.Config()
        configuration.insert_json5("mode", '"peer"')
        configuration.insert_json5(f"{role}/endpoints", json.dumps([endpoint]))
        configuration.insert_json5("scouting/multicast/enabled", "false")
        if role == "connect":
            configuration.insert_json5("listen/endpoints", "[]")
        self._session: Any = zenoh.open(configuration)
        self._publisher: Any = None

    def subscribe(self, take: Take) -> None:
        self._subscriber = self._session.declare_subscriber(
            TOPIC, lambda sample: take(sample.payload.to_string())
        )

    def publish(self, message: str) -> None:
        if self._publisher is None:
            self._publisher = self._session.declare_publisher(TOPIC)
        self._publisher.put(message)

    def close(self) -> None:
        self._session.close()  # a killed one leaves a file in /dev/shm


class Mqtt(Broker):
    """paho with its network loop in a thread, QoS 0."""

    def __init__(self, address: str) -> None:
        from paho.mqtt import client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        connected = threading.Event()
        self._client.on_connect = lambda *_: connected.set()
        host, _, port = address.partition(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        if not connected.wait(10.0):
            raise TimeoutError(f"no MQTT broker answers on {address}")
        self._last: Any = None

    def subscribe(self, take: Take) -> None:
        done = threading.Event()
        self._client.on_message = lambda client, data, message: take(message.payload.decode())
        self._client.on_subscribe = lambda *_: done.set()
        self._client.subscribe(TOPIC)
        done.wait(10.0)

    def publish(self, message: str) -> None:
        self._last = self._client.publish(TOPIC, message)

    def flush(self) -> None:
        if self._last is not None:
            self._last.wait_for_publish(30.0)


class Inbox:
    """What came. Filled by the client's thread, emptied by ours."""

    def __init__(self) -> None:
        self._taken: list[tuple[str, int]] = []

    def take(self, message: str) -> None:
        self._taken.append((message, time.monotonic_ns()))

    def report(self) -> dict[str, Any]:
        """How long each message took, and forget them."""
        taken, self._taken = self._taken, []
        return {"times_ms": [(at - int(message[:20])) / 1e6 for message, at in taken]}

    def count(self) -> dict[str, Any]:
        """How many there are, and the time between the first and the last."""
        taken = self._taken
        seconds = (taken[-1][1] - taken[0][1]) / 1e9 if taken else 0.0
        return {"count": len(taken), "seconds": seconds}


def say(found: Any) -> None:
    print(json.dumps(found), flush=True)


def main() -> None:
    role, kind, address = sys.argv[1:4]
    kinds: dict[str, type[Broker]] = {"mesh": Mesh, "nats": Nats, "zenoh": Zenoh, "mqtt": Mqtt}
    broker, inbox = kinds[kind](address), Inbox()
    if role == "subscribe":
        broker.subscribe(inbox.take)
    say("ready")
    for line in sys.stdin:
        match line.split():
            case ["pace", rate, seconds]:
                say({"count": broker.pace(float(rate), float(seconds))})
            case ["flood", seconds]:
                begun = time.monotonic()
                count = broker.flood(float(seconds))
                say({"count": count, "seconds": time.monotonic() - begun})
            case ["report"]:
                say(inbox.report())
            case ["count"]:
                say(inbox.count())
    broker.close()


if __name__ == "__main__":
    main()
