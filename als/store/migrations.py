"""ROOT/version, and how the store of a former version becomes one of today's.

A change of what lies in a store gets the next version, and a step here from the version before, if the als of before cannot
read what is written from now on, or today's cannot read what was. (A field that is added to a record needs neither.) Steps run
one after the other while the store's lock is held alone, each under the version it starts from: one that is cut short begins
again with the next command, so it has to put up with whatever it has done already. A daemon of the version before must have
ended.

No als was released with another layout than today's, so there is no step yet.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from als.errors import StoreError
from als.store.atomic import sync_file_system, write_atomically
from als.store.lock import excluding
from als.store.refused import store_errors

VERSION = 1
Step = Callable[[Path], None]
"""Takes ROOT."""
STEPS: Mapping[int, Step] = MappingProxyType({})
"""By the version that a step starts from; it leads to the next one."""
_WAIT_SECONDS = 60.0

log = logging.getLogger(__name__)


def bring_up(root: Path, steps: Mapping[int, Step] = STEPS, current: int = VERSION) -> None:
    """Make a store one of the current version; a folder without a version is a new store.

    :raises StoreError: it is of a version that is newer, or that no step leads from.
    :raises LockTimeout: others are at work in a store that has to be changed.
    """
    path = root / "version"
    # Empty: once it was written without waiting for the disk, and the power failed.
    if not path.exists() or not path.stat().st_size:
        _write(path, current)
    if _read(path, steps, current) == current:
        return
    with excluding(root / "lock", timeout=_WAIT_SECONDS):
        # Read again: somebody may have been quicker.
        for version in range(_read(path, steps, current), current):
            log.info("the store's layout is brought from version %d to %d", version, version + 1)
            with store_errors(root):
                steps[version](root)
                sync_file_system(root)
            _write(path, version + 1)


def _read(path: Path, steps: Mapping[int, Step], current: int) -> int:
    text = path.read_text("ascii", "replace").strip()
    version = int(text) if text.isdecimal() else 0
    if version > current or not all(each in steps for each in range(version, current)):
        raise StoreError(
            f"the store has layout version {text!r}, this als knows {current}",
            where=str(path.parent),
            hint="use the als that wrote it, or another --root",
        )
    return version


def _write(path: Path, version: int) -> None:
    write_atomically(path, f"{version}\n".encode(), mode=0o644)
