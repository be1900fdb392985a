"""``python -m als.cli.standby ARGUMENTS``: becomes ``als ARGUMENTS`` when the keeper says so, with all modules loaded."""

from __future__ import annotations

import importlib

from als.keeper import standby

_LOADED = ("als.cli.main", "als.cli.serve")
"""Not before the numbers of descriptors are reserved, and long before they are needed."""


def main() -> None:
    """Load, wait, and be the daemon."""
    standby.prepare()
    program, *_ = [importlib.import_module(name) for name in _LOADED]
    if standby.wait():
        program.main()


if __name__ == "__main__":
    main()
