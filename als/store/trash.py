"""A folder of ROOT/tmp for what is to be removed.

To remove a file takes the disk up to a millisecond, to rename it next to nothing. What is dead is therefore only put away
while the store's lock is held alone, and removed when others can work again. If that is cut short, it is an aborted attempt
like any other in tmp/.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from als.native.refusal import Refusal, refusal
from als.store.layout import Layout


class Trash:
    """One such folder, made when it is needed first."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.tmp / f"trash-{secrets.token_hex(6)}"
        self._count = 0

    def put(self, path: Path) -> None:
        """Take a file or folder out of the way; on a disk so full that even this fails, remove it at once."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path.rename(self._folder / str(self._count))
        except OSError as error:
            if refusal(error) is not Refusal.NO_SPACE:
                raise
            remove_all(path)
        self._count += 1

    def empty(self) -> None:
        """Remove what was put away. The caller holds the store's lock, shared or alone."""
        # Whoever had the lock alone in the meantime may have swept tmp/.
        if self._folder.exists():
            remove_all(self._folder)


def remove_all(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
