"""Ejection, circuit breaker, retry budget, groups that take over."""

from __future__ import annotations

from mesh.core.breaker import KEYS_MAX, Breaker, BreakerConfig, RetryBudget
from mesh.core.failover import Failover


def broken(times=3, at=0.0):
    breaker = Breaker(BreakerConfig(failures=3, pause_s=5, pause_s_max=20, forgive_s=100))
    for _ in range(times):
        breaker.failed("a", at)
    return breaker


def test_three_failures_in_a_row_open_the_circuit_and_one_answer_between_keeps_it_closed():
    assert broken(2).state("a", 0) == "closed"
    assert broken(3).state("a", 0) == "open"
    breaker = broken(2)
    breaker.answered("a", 0)
    breaker.failed("a", 0)
    assert breaker.state("a", 0) == "closed"


def test_after_the_pause_one_call_tries_it_and_an_answer_closes_the_circuit():
    breaker = broken()
    assert breaker.state("a", 5) == "half-open"
    breaker.begun("a", 5)
    assert breaker.state("a", 5) == "open"
    breaker.answered("a", 6)
    assert breaker.state("a", 6) == "closed"


def test_a_trial_that_fails_doubles_the_pause_up_to_its_bound():
    breaker, now = broken(), 0.0
    for pause in (5, 10, 20, 20):
        assert breaker.state("a", now + pause - 0.1) == "open"
        now += pause
        assert breaker.state("a", now) == "half-open"
        breaker.begun("a", now)
        breaker.failed("a", now)


def test_a_trial_that_never_ends_does_not_block_the_next():
    breaker = broken()
    breaker.begun("a", 5)
    assert breaker.state("a", 10) == "half-open"


def test_a_clean_time_is_forgiven():
    breaker = broken()
    breaker.answered("a", 10)
    assert not breaker.spotless
    breaker.answered("a", 100)
    assert breaker.spotless


def test_if_nobody_would_be_left_the_circuit_does_not_count():
    breaker = broken()
    assert breaker.allowed(["x", "y"], ["a", "b"], 1) == ["y"]
    assert breaker.allowed(["x"], ["a"], 1) == ["x"]


def test_records_are_bounded_and_forgotten():
    breaker = broken()
    breaker.forget("a")
    assert breaker.spotless
    for number in range(KEYS_MAX + 10):
        breaker.failed(str(number), 0)
    assert breaker.state("0", 0) == "closed"


def test_retries_are_a_share_of_the_calls():
    budget = RetryBudget(ratio=0.2, per_s=0, kept=10)
    assert sum(budget.take(0) for _ in range(20)) == 10
    for _ in range(11):
        budget.called()
    assert [budget.take(0) for _ in range(3)] == [True, True, False]


def test_some_retries_come_back_with_time():
    budget = RetryBudget(ratio=0, per_s=1, kept=2)
    assert [budget.take(0) for _ in range(3)] == [True, True, False]
    assert budget.take(1.0)
    assert not budget.take(1.5)
    assert budget.take(2.5)


def groups(order=("primary", "secondary", "tertiary")):
    made = Failover(failures=3, return_s=300)
    for name in order:
        made.present(name, True, 0)
    return made


ORDER = ("primary", "secondary", "tertiary")


def test_the_first_group_is_used_until_it_failed_three_times():
    failover = groups()
    assert failover.choose(ORDER, 1) == "primary"
    assert [failover.failed("primary", 1) for _ in range(3)] == [False, False, True]
    assert failover.choose(ORDER, 1) == "secondary"


def test_an_answer_between_failures_starts_the_count_anew():
    failover = groups()
    failover.failed("primary", 1)
    failover.failed("primary", 1)
    failover.answered("primary")
    failover.failed("primary", 1)
    assert failover.choose(ORDER, 1) == "primary"


def test_a_group_comes_back_after_300_s_of_health():
    failover = groups()
    failover.present("primary", False, 10)
    assert failover.choose(ORDER, 10) == "secondary"
    failover.present("primary", True, 20)
    assert failover.choose(ORDER, 319) == "secondary"
    assert failover.next_change(20) == 320
    assert failover.choose(ORDER, 320) == "primary"
    assert failover.next_change(320) is None


def test_each_fault_starts_the_300_s_anew():
    failover = groups()
    for _ in range(3):
        failover.failed("primary", 10)
    assert failover.choose(ORDER, 309) == "secondary"
    failover.failed("primary", 309)
    assert failover.choose(ORDER, 330) == "secondary"
    assert failover.choose(ORDER, 609) == "primary"


def test_where_all_groups_are_out_the_first_that_has_anybody_is_used():
    failover = groups()
    for name in ORDER:
        for _ in range(3):
            failover.failed(name, 1)
    assert failover.choose(ORDER, 1) == "primary"
    for name in ORDER:
        failover.present(name, False, 2)
    assert failover.choose(ORDER, 2) == ""


def test_groups_that_the_document_lost_are_forgotten():
    failover = groups()
    failover.present("primary", False, 1)
    failover.keep(["secondary"])
    failover.present("primary", True, 2)
    assert failover.choose(ORDER, 2) == "primary"
