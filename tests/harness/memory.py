"""How much memory a program takes together with all the processes that it starts."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self


class PeakMemory(threading.Thread):
    """Looks every 0.2 s how much memory this process's descendants take, until the block ends.

    Counted is the proportional set size: what workers share with the process they were forked from counts once.
    """

    def __init__(self) -> None:
        super().__init__(name="peak memory", daemon=True)
        self.bytes = 0
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.2):
            self.bytes = max(self.bytes, sum(proportional_bytes(pid) for pid in descendants(os.getpid())))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self.join()


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, theirs included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            except OSError:  # It has ended.
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def proportional_bytes(pid: int) -> int:
    """The proportional set size of a process (proc_pid_smaps_rollup(5)); 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")), 0)
