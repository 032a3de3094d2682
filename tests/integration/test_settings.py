"""Settings of a running agent: where each came from, and what SIGHUP changes."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from yard import Agent, Yard, eventually


def rows(agent: Agent) -> dict[str, dict[str, Any]]:
    done = agent.ctl("-o", "json", "config", "show")
    assert done.returncode == 0, done.stderr
    return {row["key"]: row for row in json.loads(done.stdout)}


def test_config_show_names_sources_and_a_hangup_applies_what_it_can(yard: Yard) -> None:
    conf_d = yard.folder / "etc" / "conf.d"
    conf_d.mkdir(parents=True)
    (conf_d.parent / "meshd.toml").write_text("")
    (conf_d / "10-log.toml").write_text('[log]\nlevel = "info"\n')
    agent = yard.first(start=False)
    agent.settings = {"MESHD_METRICS__INTERVAL_S": "5"}
    agent.words = ["--config", str(conf_d.parent / "meshd.toml")]
    agent.start()

    shown = rows(agent)
    assert shown["metrics.interval_s"]["origin"] == "environment MESHD_METRICS__INTERVAL_S"
    assert shown["log.level"]["origin"] == str(conf_d / "10-log.toml")
    assert shown["net.listen"]["origin"] == "flag"
    assert shown["store.map_bytes"]["origin"] == "default"

    (conf_d / "20-new.toml").write_text('[log]\nlevel = "debug"\n[store]\nlinger_ms = 50\n')
    agent.signal(signal.SIGHUP)
    eventually(lambda: rows(agent)["log.level"]["value"] == "debug", "the level is reloaded")
    assert rows(agent)["log.level"]["origin"] == str(conf_d / "20-new.toml")
    eventually(lambda: "store.linger_ms changed, and counts after a restart" in agent.said(), "it says so")
    assert rows(agent)["store.linger_ms"]["value"] == shown["store.linger_ms"]["value"]
    assert rows(agent)["store.linger_ms"]["pending"] == [50]
    (conf_d / "20-new.toml").write_text('[log]\nlevel = "debug"\n')
    agent.signal(signal.SIGHUP)
    eventually(lambda: rows(agent)["store.linger_ms"]["pending"] == [], "nothing waits any more")
    assert agent.said().count("counts after a restart") == 1

    (conf_d / "30-wrong.toml").write_text("[log]\nlevle = 'info'\n")
    agent.signal(signal.SIGHUP)
    eventually(lambda: "unknown key log.levle" in agent.said(), "the mistake is named")
    assert rows(agent)["log.level"]["value"] == "debug"
    assert agent.alive()


def test_an_agent_with_a_wrong_setting_does_not_start_and_says_why(yard: Yard) -> None:
    agent = yard.first(start=False)
    agent.settings = {"MESHD_NET__LISTN": "x"}
    with pytest.raises(AssertionError, match="MESHD_NET__LISTEN"):
        agent.start()
    assert agent.process is not None
    assert agent.process.returncode == 2


SPY = """
import atexit, gc
atexit.register(lambda: print("kept for good:", gc.get_freeze_count(), flush=True))
"""


def test_what_a_start_has_made_is_not_looked_through_again(yard: Yard) -> None:
    """A full collection of all of it stopped the loop for 40 ms, in the midst of a flood."""
    spy = yard.folder / "spy"
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)
    agent = yard.first(start=False)
    agent.settings = {"PYTHONPATH": str(spy)}
    agent.start()
    eventually(lambda: "is up in mesh" in agent.said(), "it is up")
    assert agent.stop() == 0
    kept = int(agent.said().rpartition("kept for good: ")[2].split()[0])
    assert kept > 50_000
