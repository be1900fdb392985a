"""The folders of lazy layers, as far as others than the daemon that fills them have to do with them: which chains one has
served, and how it goes. What is in them is :mod:`als.lazy.partial`'s.

A container that was started while a layer was lazy goes on looking its files up in the folder, however complete the layer is by
now and whatever new containers are shown instead; the kernel does not tell, for the mount in between has been detached. But it
tells by which chains a container is mounted. So each folder has a file for every chain that it ever stood for::

    chains/<chain>              empty

These are written before a chain can be mounted and never taken away; a chain that is gone has nobody who names it.

A layer that was refused must never be served again. So what stays of its folder for ever are two small files: what it was, and
why it was refused.
"""

from __future__ import annotations

import os
from pathlib import Path

from als.store.layout import Layout
from als.store.trash import Trash

REFUSED = "refused"
"""A file that says why a layer must not be shown."""
_RECORD = "lazy.json"
_CHAINS = "chains"
_KEPT = {REFUSED, _RECORD}


def note_chain(folder: Path, chain_id: str) -> None:
    """Write down that clients may mount a chain whose files are looked up in this folder."""
    (folder / _CHAINS).mkdir(mode=0o700, exist_ok=True)
    (folder / _CHAINS / chain_id).touch(mode=0o600)


def chains_of(folder: Path) -> frozenset[str]:
    """Every chain that has been noted."""
    try:
        return frozenset(os.listdir(folder / _CHAINS))
    except FileNotFoundError:
        return frozenset()


def keys(layout: Layout) -> list[str]:
    """Of every folder in which there is something that could be removed."""
    return sorted(name for name in os.listdir(layout.lazy) if not _is_tombstone(layout.lazy / name))


def forests_of(folder: Path) -> tuple[Path, ...]:
    """Where a lazy layer's files are, whole and in parts."""
    return folder / "diff1", folder / "parts"


def mount_point(folder: Path) -> Path:
    """Where a lazy layer's image is mounted for clients of the ALS protocol."""
    return folder / "diff"


def discard(folder: Path, trash: Trash) -> None:
    """Remove a lazy layer of which nothing is mounted, but for the reason of its refusal. The caller holds the store's lock
    alone; a daemon that still serves it notices before long."""
    if not (folder / REFUSED).exists():
        trash.put(folder)
        return
    for path in sorted(folder.iterdir()):
        if path.name not in _KEPT:
            trash.put(path)


def _is_tombstone(folder: Path) -> bool:
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    return REFUSED in names and names <= _KEPT
