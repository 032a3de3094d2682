"""When checks run, what their results make of a service, and how it is told."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from mesh.core.checking import Changed, Checking, Finished, Offered, Reported, Run, Silent, Withdrawn
from mesh.core.checks import Check, parse_check
from mesh.core.health import (
    Gauge,
    Health,
    Outcome,
    Result,
    Word,
    read_words,
    shown,
    together,
    words_value,
    worst,
)
from mesh.core.registry import parse

TCP = Check("tcp", timeout_s=3.0, host="127.0.0.1", port=1)
TTL = parse_check("a", {"kind": "ttl"}, "127.0.0.1", 1)
PASS, WARN, FAIL, ERROR = (Outcome(result, result.name.lower()) for result in Result)


class Bench:
    """The machine with a clock of its own, and every run answered as told."""

    def __init__(self, running_max: int = 64) -> None:
        self.machine = Checking(random.Random(1), running_max=running_max)
        self.now = 0.0
        self.open: list[Run] = []
        self.told: list[tuple[float, str, str, str]] = []
        self.began: list[tuple[float, str]] = []
        self.silent: list[str] = []

    def give(self, event: object) -> None:
        self.take(self.machine.handle(event, self.now))

    def take(self, actions: list) -> None:
        for action in actions:
            match action:
                case Run():
                    self.open.append(action)
                    self.began.append((self.now, action.id))
                case Changed(id=id_, health=health, why=why):
                    self.told.append((self.now, id_, health.word, why))
                case Silent(id=id_):
                    self.silent.append(id_)

    def until(self, end: float, answer: Outcome | None = None, took_s: float = 0.0) -> None:
        """Let time pass; each run that is open is answered at once."""
        while True:
            while answer is not None and self.open:
                outcome = Outcome(answer.result, answer.output, took_s)
                self.give(Finished(self.open.pop(0), outcome))
            deadline = self.machine.deadline()
            if deadline > end:
                self.now = end
                return
            self.now = max(self.now, deadline)
            self.take(self.machine.tick(self.now))


def test_a_new_service_is_unknown_then_healthy_within_seconds_and_checked_every_interval_after() -> None:
    bench = Bench()
    bench.give(Offered("a", (TCP,), 30.0))
    bench.until(600.0, PASS)
    assert [word for _, _, word, _ in bench.told] == ["unknown", "healthy"]
    assert bench.told[1][0] <= 2.2
    times = [at for at, _ in bench.began][2:]
    assert all(27.0 <= later - earlier <= 33.0 for earlier, later in pairwise(times))


def test_three_failures_lower_and_two_passes_raise() -> None:
    gauge = Gauge(TCP)
    steps = [PASS, PASS, FAIL, FAIL, PASS, FAIL, FAIL, FAIL, PASS, FAIL, PASS, PASS]
    states = []
    for outcome in steps:
        gauge.take(outcome, 0.0)
        states.append(gauge.health.word)
    unknown, healthy, unhealthy = ["unknown"], ["healthy"], ["unhealthy"]
    assert states == unknown + healthy * 6 + unhealthy * 4 + healthy


def test_what_cannot_be_tried_is_an_error_and_a_warning_degrades_at_once() -> None:
    gauge = Gauge(TCP)
    for outcome in (PASS, PASS, WARN):
        gauge.take(outcome, 0.0)
    assert gauge.health == Health.DEGRADED
    for outcome in (FAIL, FAIL, ERROR):
        gauge.take(outcome, 0.0)
    assert gauge.health == Health.ERROR


def test_the_worst_check_counts_and_says_why() -> None:
    bench = Bench()
    other = Check("tcp", timeout_s=3.0, host="127.0.0.1", port=2, group=1)
    bench.give(Offered("a", (TCP, other), 30.0))
    bench.until(10.0, PASS)
    for _ in range(3):
        bench.until(bench.now + 40.0)
        for run in bench.open:
            bench.give(Finished(run, PASS if run.check is TCP else Outcome(Result.FAIL, "refused")))
        bench.open = []
    assert bench.told[-1][2:] == ("unhealthy", "refused")
    assert worst([Health.HEALTHY, Health.ERROR, Health.UNKNOWN]) == Health.ERROR
    assert worst([Health.DEGRADED, Health.UNKNOWN]) == Health.UNKNOWN
    assert worst([]) == Health.HEALTHY


def test_a_check_that_never_ends_delays_no_other() -> None:
    bench = Bench()
    bench.give(Offered("stuck", (TCP,), 30.0))
    bench.until(2.0)
    (stuck,) = bench.open
    bench.open = []
    bench.give(Offered("a", (TCP,), 30.0))
    bench.until(200.0, PASS)
    assert [id_ for _, id_ in bench.began].count("stuck") == 1
    times = [at for at, id_ in bench.began if id_ == "a"]
    assert max(later - earlier for earlier, later in pairwise(times)) <= 33.0
    bench.give(Finished(stuck, FAIL))
    bench.until(203.0, FAIL)
    assert [id_ for _, id_ in bench.began].count("stuck") > 1


def test_no_more_run_at_once_than_allowed_and_the_rest_wait_in_order() -> None:
    bench = Bench(running_max=3)
    for number in range(10):
        bench.give(Offered(f"s{number}", (TCP,), 30.0))
    bench.until(5.0)
    assert len(bench.open) == 3
    bench.until(5.0, PASS)
    assert len({id_ for _, id_ in bench.began}) == 10


def test_a_program_that_reports_is_well_until_its_ttl_passes_in_silence() -> None:
    bench = Bench()
    bench.give(Offered("a", (TTL,), 10.0))
    bench.give(Reported("a", PASS))
    bench.until(8.0)
    bench.give(Reported("a", WARN))
    bench.until(17.9)
    assert [word for _, _, word, _ in bench.told] == ["unknown", "healthy", "degraded"]
    bench.until(60.0)
    assert bench.told[-1][0] == 18.0
    assert bench.told[-1][2:] == ("unhealthy", "no report for 10 s")
    assert bench.silent == ["a"]
    bench.give(Reported("a", PASS))
    assert bench.machine.health("a") == Health.HEALTHY


def test_a_program_that_never_reports_is_not_unknown_for_ever() -> None:
    bench = Bench()
    bench.give(Offered("a", (TTL,), 10.0))
    bench.until(11.0)
    assert bench.machine.health("a") == Health.UNHEALTHY


def test_results_of_what_is_withdrawn_or_changed_do_not_count() -> None:
    bench = Bench()
    bench.give(Offered("a", (TCP,), 30.0))
    bench.until(2.0)
    (old,) = bench.open
    bench.give(Offered("a", (TCP, TTL), 30.0))
    bench.give(Finished(old, FAIL))
    assert all(gauge.last is None for gauge in bench.machine.gauges("a"))
    bench.give(Withdrawn("a"))
    bench.give(Withdrawn("a"))
    bench.open = []
    bench.until(500.0)
    assert bench.open == []
    assert bench.machine.gauges("a") == ()
    bench.give(Reported("a", PASS))


def test_of_several_endpoints_one_that_fails_degrades_and_all_that_fail_lower() -> None:
    bench, one = (
        Bench(),
        parse({"name": "a", "endpoints": ["tcp://h:1", "tcp://h:2"], "checks": [{"kind": "tcp"}]}),
    )
    assert one.service(b"k" * 32).checks == ("tcp",)
    bench.give(Offered("a", one.checks, 30.0))
    bench.until(10.0, PASS)
    for failing in ({2}, {1, 2}, {1}):
        for _ in range(3):
            bench.until(bench.now + 40.0)
            for run in bench.open:
                bench.give(Finished(run, FAIL if run.check.port in failing else PASS))
            bench.open = []
    assert [word for _, _, word, _ in bench.told] == [
        "unknown",
        "healthy",
        "degraded",
        "unhealthy",
        "degraded",
    ]
    assert bench.told[2][3] == "fail"


def test_an_endpoint_that_comes_leaves_the_others_as_they_are() -> None:
    bench, raw = Bench(), {"name": "a", "endpoints": ["tcp://h:1"], "checks": [{"kind": "tcp"}]}
    bench.give(Offered("a", parse(raw).checks, 30.0))
    bench.until(10.0, PASS)
    bench.give(Offered("a", parse({**raw, "endpoints": ["tcp://h:1", "tcp://h:2"]}).checks, 30.0))
    bench.until(20.0, PASS)
    assert [word for _, _, word, _ in bench.told] == ["unknown", "healthy"]
    assert together([Health.UNKNOWN, Health.ERROR]) == Health.UNKNOWN
    assert together([Health.UNHEALTHY, Health.ERROR]) == Health.ERROR


def test_a_service_without_checks_is_healthy() -> None:
    bench = Bench()
    bench.give(Offered("a", (), 30.0))
    assert [word for _, _, word, _ in bench.told] == ["healthy"]
    assert bench.machine.deadline() == float("inf")


# -- what is told ----------------------------------------------------------------------------------------


def test_words_survive_the_wire_and_nonsense_is_left_out() -> None:
    words = {"a" * 16: Word(Health.UNHEALTHY, 5, "status 500"), "b" * 16: Word(Health.UNKNOWN, 6)}
    assert read_words(words_value(words)) == words
    for nonsense in (None, [], {"services": []}, {"services": {"a": 1}}, {"services": {"a": [9, 1]}}, {1: 2}):
        assert read_words(nonsense) == {}
    assert read_words({"services": {"a": [3, 1, "\x1b[2J"]}}) == {"a": Word(Health.UNHEALTHY, 1)}


def test_of_very_many_words_the_reasons_are_left_out() -> None:
    many = {f"{number:016x}": Word(Health.ERROR, 1, "x" * 500) for number in range(300)}
    found = read_words(words_value(many))
    assert len(found) == 300
    assert not any(word.why for word in found.values())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ok", "ok"),
        ("a\nb\tc\n", "a b c"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("x" * 3000, "x" * 1023 + "…"),
    ],
)
def test_output_prints_safely(text: str, line: str) -> None:
    assert shown(text) == line
