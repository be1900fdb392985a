"""``python -m tests.life.killed_pull ROOT RUN REFERENCE STEPS``: `als pull` in a process that ends at once before a given step.

A step is a change that a crash could separate from the next: a name made, given or removed, a mount made, something made
durable. Prints what the steps were if it was not killed. See :mod:`tests.life.killed_gc`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from als.config import LAYOUTS, Config
from als.model.reference import parse_reference
from als.native import mounts
from als.service import Service

DIES = 77
"""The exit status of one that was killed."""
_CALLS = ("link", "symlink", "mkdir", "rename", "unlink", "rmdir", "fsync")


class Steps:
    """Counts steps, and ends the process when it is time."""

    def __init__(self, until: int) -> None:
        self.names: list[str] = []
        self._until = until

    def counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            if len(self.names) == self._until:
                os._exit(DIES)
            self.names.append(f"{name} {' '.join(map(str, arguments))}")
            return function(*arguments, **options)

        return step


def main(root: str, run: str, reference: str, until: str) -> None:
    steps = Steps(int(until))
    with Service(Config(root=Path(root), run=Path(run), worker_user="65534", layouts=LAYOUTS)) as service:
        for name in _CALLS:
            # pathlib and shutil call these by their names in os.
            setattr(os, name, steps.counted(name, getattr(os, name)))
        setattr(mounts, "mount", steps.counted("mount", mounts.mount))  # noqa: B010 - mypy takes functions for constants
        service.pull(parse_reference(reference), asked=True)
    print("\n".join(steps.names))


if __name__ == "__main__":
    main(*sys.argv[1:])
