"""`meshd run`."""

from __future__ import annotations

from argparse import Namespace

from mesh.settings import load


def main(options: Namespace) -> int:
    """Run the agent until it is told to stop; returns the exit status."""
    flags = {
        "node.data_dir": options.data_dir,
        "net.listen": options.listen,
        "net.seeds": options.seed,
        "admin.socket": options.admin_socket,
        "membership.profile": options.profile,
        "log.level": options.log_level,
    }
    config = load(options.config, flags=flags)
    # Only now, so that a mistake in the configuration is said at once.
    from meshd.serve import run_agent

    return run_agent(config, reload=lambda: load(options.config, flags=flags))
