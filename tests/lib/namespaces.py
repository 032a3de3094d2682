"""Whether network namespaces can be made and cut here: root in a container may lack the right to."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

NEEDED = ("ip", "iptables")


@cache
def missing() -> str:
    """Why there are none, or ""."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in NEEDED):
        return f"needs root and the programs {' and '.join(NEEDED)}"
    name = f"mt{os.getpid()}p"
    inside = ["ip", "netns", "exec", name]
    tried = [
        ["ip", "netns", "add", name],
        ["ip", "-n", name, "link", "add", "x", "type", "veth", "peer", "name", "y"],
        [*inside, "iptables", "-A", "INPUT", "-s", "10.213.7.1", "-j", "DROP"],
    ]
    try:
        for words in tried:
            done = subprocess.run(words, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                return f"{' '.join(words)}: {done.stderr.strip()[:200]}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return ""
