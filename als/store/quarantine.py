"""ROOT/quarantine: what was taken out of service and may still be of use to somebody. als never removes anything there."""

from __future__ import annotations

import time
from pathlib import Path


def quarantine(folder: Path, path: Path, kind: str) -> Path:
    """Take something out of service, without removing it; returns where it is then.

    :param folder: :attr:`als.store.layout.Layout.quarantine`, on the same file system.
    :param kind: of thing, for the name there.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    place = folder / f"{time.time_ns():x}-{kind}-{path.name}"
    path.rename(place)
    return place
