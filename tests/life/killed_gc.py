"""``python -m tests.life.killed_gc ROOT RUN STEPS``: gc in a process that ends at once before a given step.

A step is a change that a crash could separate from the next: a name removed or given, a mount taken away. It ends as by
kill -9: nothing is cleaned up. Prints how many steps there were if it was not killed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import als.mount.unmounting
from als.config import LAYOUTS, Config
from als.service import Service
from als.service.removal import collect

_DIES = 77


class Steps:
    """Counts steps, and ends the process when it is time."""

    def __init__(self, until: int) -> None:
        self.count = 0
        self._until = until

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            if self.count == self._until:
                os._exit(_DIES)
            self.count += 1
            return function(*arguments, **options)

        return step


def main(root: str, run: str, until: str) -> None:
    steps = Steps(int(until))
    with Service(Config(root=Path(root), run=Path(run), worker_user="65534", layouts=LAYOUTS)) as service:
        for name in ("unlink", "rmdir", "rename"):
            # pathlib and shutil call these by their names in os.
            setattr(os, name, steps.counted(getattr(os, name)))
        native = als.mount.unmounting.native
        setattr(native, "unmount", steps.counted(native.unmount))  # noqa: B010 - mypy takes functions for constants
        collect(service)
    print(steps.count)


if __name__ == "__main__":
    main(*sys.argv[1:])
