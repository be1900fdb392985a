"""``python -m als.keeper``: what ``als serve --keep`` becomes. A program of its own, so that the keeper stays small."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from als.keeper.keep import Keeper, Settings

PID_FILE = "keeper.pid"


def main() -> int:
    """Keep a daemon; the exit status."""
    parser = argparse.ArgumentParser(prog="als serve --keep", description=__doc__)
    parser.add_argument("--mountpoint", type=Path, required=True)
    parser.add_argument("--fstype", required=True)
    parser.add_argument("--run", type=Path, required=True, help="the folder for keeper.pid")
    parser.add_argument("--watchdog", type=float, required=True, help="seconds")
    parser.add_argument("--standby", action="append", default=[], help="a word of the command that waits to become the daemon")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    logging.basicConfig(level=arguments.log_level, format="als: %(levelname)s: %(name)s: %(message)s")
    settings = Settings(
        tuple(arguments.command),
        arguments.mountpoint,
        arguments.fstype,
        arguments.watchdog,
        standby=tuple(arguments.standby),
    )
    arguments.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    file = arguments.run / PID_FILE
    file.write_text(f"{os.getpid()}\n", "ascii")
    try:
        return Keeper(settings).run()
    finally:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
