"""Power cuts: a file system is cut off at any point of what was written to its disk, and mounted again as after a boot.

A disk keeps what was written before a flush. Of what came after the last flush it may have kept any part, block by block. So
for a cut, the disk is made anew from the log of all writes (:mod:`tests.harness.blocklog`): everything up to the last flush
before the cut, and of the blocks written after it a random choice. Mounting replays the file system's journal; nothing else
repairs it.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.blocklog import RECORD
from tests.harness.system import run, stop_process, unmount_below, wait_until

_BLOCK = 4096
_BYTES = 192 << 20
_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-m", "0", "-N", "20000", "-J", "size=4", "-E", "lazy_itable_init=0,nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-K"),
}
XFS_BYTES = 320 << 20
"""Smaller ones are refused."""


@dataclass(frozen=True)
class Write:
    """One block, or less, that was written; a flush where there are no data."""

    offset: int
    data: bytes


class Recording:
    """A mounted file system whose disk writes down what it is told.

    :ivar point: where it is mounted.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.point = folder / "fs"
        self.base = folder / "base.img"
        self.log = folder / "log"

    def position(self) -> int:
        """How much has been written down: what was durable before is so in every cut from here on."""
        return self.log.stat().st_size

    def writes(self) -> list[tuple[int, Write]]:
        """The log, each with the position after it; larger writes in blocks, any of which can be lost."""
        data, found, start = self.log.read_bytes(), [], 0
        while start < len(data):
            offset, length = RECORD.unpack_from(data, start)
            start += RECORD.size
            piece = data[start : start + length]
            start += length
            if not length:
                found.append((start, Write(0, b"")))
            found += [(start, Write(offset + at, piece[at : at + _BLOCK])) for at in range(0, length, _BLOCK)]
        return found


@contextmanager
def recording(folder: Path, kind: str = "ext4") -> Iterator[Recording]:
    """A new file system on such a disk, mounted as long as the context lasts."""
    found = Recording(folder, kind)
    disk, image = folder / "disk", folder / "disk.img"
    for path in (found.point, disk):
        path.mkdir(parents=True)
    with found.base.open("wb") as file:
        file.truncate(XFS_BYTES if kind == "xfs" else _BYTES)
    run(*_MAKE[kind], found.base)
    run("cp", "--sparse=always", found.base, image)
    command = [sys.executable, "-m", "tests.harness.blocklog", str(disk), str(image), str(found.log)]
    server = subprocess.Popen(command)
    try:
        wait_until((disk / "disk").exists, "the disk")
        run("mount", "-o", "loop,nodiscard", disk / "disk", found.point)
        yield found
    finally:
        unmount_below(found.point)
        unmount_below(disk)
        stop_process(server)


def cuts(found: Recording, count: int, seed: int, first: int = 0) -> list[int]:
    """Random positions, in order; as many just before a flush as anywhere, for most is at stake there.

    :param first: the lowest position.
    """
    chance = random.Random(seed)
    writes = [(position, write) for position, write in found.writes() if position > first]
    before = [at for (at, _), (_, after) in itertools.pairwise(writes) if not after.data]
    everywhere = [position for position, _ in writes]
    chosen: set[int] = set()
    for number in range(count):
        among = [at for at in (before if number % 2 else everywhere) if at not in chosen]
        chosen.update(chance.sample(among, min(len(among), 1)))
    return sorted(chosen)


def cuts_after(found: Recording, text: bytes, flushes: slice) -> list[int]:
    """Whenever a text was written to the disk: after some of the flushes that followed."""
    writes = found.writes()
    chosen: set[int] = set()
    for number, (_, write) in enumerate(writes):
        if text in write.data:
            chosen.update([position for position, later in writes[number:] if not later.data][flushes])
    return sorted(chosen)


@contextmanager
def after_cut(found: Recording, cut: int, seed: int) -> Iterator[None]:
    """The file system as a machine finds it that lost its power at a position, mounted where it was."""
    image = found.base.with_name("cut.img")
    run("cp", "--sparse=always", found.base, image)
    with image.open("r+b") as file:
        for write in kept([(position, write) for position, write in found.writes() if position <= cut], seed ^ cut):
            os.pwrite(file.fileno(), write.data, write.offset)
    # One that another mount namespace has not let go of yet has the same UUID, which XFS minds.
    run("mount", "-o", "loop,nouuid" if found.kind == "xfs" else "loop", image, found.point)
    try:
        yield
    finally:
        unmount_below(found.point)
        image.unlink()


def kept(writes: Sequence[tuple[int, Write]], seed: int) -> list[Write]:
    """What a disk has of these writes after a power cut."""
    chance = random.Random(seed)
    flushes = [number for number, (_, write) in enumerate(writes) if not write.data]
    safe = flushes[-1] + 1 if flushes else 0
    share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    certain = [write for _, write in writes[:safe] if write.data]
    return certain + [write for _, write in writes[safe:] if chance.random() < share]
