"""Layers on their way to the disk while they are still arriving.

Before a layer is published, everything must be on the disk. Left to that moment, a layer of 196 MB waited 0.2 s with the
processors idle. So each time a good deal has gathered, a sync is begun that nobody waits for; the last one then has little
left to do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from als.store.atomic import sync_file_system
from als.store.beside import Beside

_STEP = 16 << 20


class Writeback:
    """For one layer; to be closed."""

    def __init__(self, folder: Path, each: Callable[[], None] = lambda: None) -> None:
        """
        :param each: what to do after each sync.
        """
        self._folder = folder
        self._each = each
        self._beside = Beside("writeback", ahead=1)
        self._next = _STEP

    def reached(self, size: int) -> None:
        """So many bytes of the stream have been taken apart.

        :raises OSError: what was written before did not reach the disk.
        """
        if size >= self._next and self._beside.idle:
            self._next = size + _STEP
            self.begin()

    def begin(self, then: Callable[[], None] | None = None) -> None:
        """Have all that was written so far on its way to the disk.

        :param then: what to do once it is there.
        :raises OSError: what was written before did not reach the disk.
        """

        def work() -> None:
            sync_file_system(self._folder)
            self._each()
            if then is not None:
                then()

        self._beside.run(work)

    def settle(self) -> None:
        """Wait for what is under way. Not to be left out: the kernel tells of each error once, and the sync before publication
        would hear nothing of what this one has heard (syncfs(2)).

        :raises OSError: what was written did not reach the disk.
        """
        self._beside.wait()

    def close(self) -> None:
        """Waits for what is under way."""
        self._beside.close()
