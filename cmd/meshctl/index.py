"""The first words: in which module each lives, and what it is for. Nothing here loads a module."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """Where a word's verbs are."""

    module: str
    summary: str


INDEX: dict[str, dict[str, Entry]] = {
    "The node": {
        "status": Entry("status", "show this node"),
        "doctor": Entry("status", "look for what is wrong, and say what to do"),
        "events": Entry("status", "show what happened"),
        "metrics": Entry("status", "show samples of the machine and the agent"),
        "version": Entry("status", "show the versions of meshctl and the agent"),
    },
    "Members": {
        "members": Entry("members", "list everyone in the mesh"),
        "node": Entry("members", "show and steer one member"),
        "leave": Entry("members", "leave the mesh, and stop"),
        "ping": Entry("links", "measure round trips to a member"),
        "rtt": Entry("links", "show the round trip between two members"),
        "reachability": Entry("links", "show who sees whom"),
        "links": Entry("links", "list the links of this node"),
        "invite": Entry("invites", "let devices in"),
        "cert": Entry("invites", "show and revoke membership certificates"),
        "policy": Entry("policy", "show and change who may do what"),
    },
    "Replicated state": {
        "kv": Entry("kv", "read and write keys"),
        "mv": Entry("types", "keys that keep conflicting values"),
        "set": Entry("types", "sets"),
        "counter": Entry("types", "counters"),
        "log": Entry("types", "append-only logs"),
        "map": Entry("types", "maps"),
        "flag": Entry("types", "flags"),
    },
    "Changes": {
        "rollout": Entry("rollout", "follow, steer and undo changes on their way over the nodes"),
    },
    "Locks": {
        "quorum": Entry("quorum", "declare and replace the voters that locks stand on"),
        "lock": Entry("lock", "run a command while holding a lock"),
        "lease": Entry("lease", "hold locks from scripts, and see who holds them"),
    },
    "Messages": {
        "pub": Entry("messages", "send a message to a topic"),
        "sub": Entry("messages", "print the messages of topics"),
        "request": Entry("messages", "ask one member's program"),
        "query": Entry("messages", "ask many members' programs at once"),
    },
    "Services": {
        "service": Entry("services", "offer, find and watch services"),
        "shard": Entry("services", "show which members keys belong to"),
        "route": Entry("traffic", "show and steer which instance takes a call"),
        "proxy": Entry("traffic", "show where programs of this device reach services"),
        "token": Entry("traffic", "let callers outside the mesh use services"),
    },
    "Workloads": {
        "apply": Entry("workloads", "have workloads run on the mesh"),
        "validate": Entry("workloads", "read workloads without applying them"),
        "workload": Entry("workloads", "list, explain and change workloads"),
        "secret": Entry("secret", "values that only the nodes which run a workload can read"),
        "admission": Entry("workloads", "rules of what may run"),
        "logs": Entry("logs", "print what workloads write"),
    },
    "Upkeep": {
        "log-level": Entry("upkeep", "show or set the level of the agent's log"),
        "config": Entry("config", "show the agent's settings; set them for many nodes"),
        "backup": Entry("upkeep", "copy the store into a file"),
        "restore": Entry("upkeep", "put a copy of the store back"),
        "debug": Entry("upkeep", "collect what a bug report needs"),
        "completion": Entry("completion", "print a completion script for a shell"),
    },
    "Trying out": {
        "sim": Entry("sim", "run a simulated mesh through faults, and see what holds"),
    },
}

WORDS: dict[str, Entry] = {word: entry for part in INDEX.values() for word, entry in part.items()}


def overview() -> str:
    """What `meshctl --help` prints."""
    lines = [
        "NAME",
        "    meshctl - talk to the mesh agent of this machine",
        "",
        "SYNOPSIS",
        "    meshctl [--socket PATH] [-o table|wide|json|jsonl|name] COMMAND [ARGUMENT]...",
        "    meshctl COMMAND --help",
        "",
        "COMMANDS",
    ]
    for title, part in INDEX.items():
        lines.append(f"  {title}")
        lines += [f"    {word:<14}{entry.summary}" for word, entry in part.items()]
        lines.append("")
    return "\n".join(lines)
