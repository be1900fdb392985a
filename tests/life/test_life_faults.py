"""A pull whose system calls fail, one at a time: a clear error, a sound store, space given back, and the next pull works."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.model.reference import parse_reference
from als.service import Service
from als.service.fsck import Remedy
from als.service.recovery import recover
from als.service.removal import collect
from als.service.repair import fsck
from tests.formats.tocbuilder import estargz, file
from tests.harness import faults
from tests.harness.disk import bytes_on_disk
from tests.harness.ocilayout import LayerBlob, Layout
from tests.harness.system import unmount_below
from tests.life.history import policy
from tests.life.stores import contents, layer, pull

SEED = 11
SAMPLE = 3
"""Points that are tried beside the first of each kind of call; all of them with ``make soak``."""
ALL = "ALS_ALL_POINTS" in os.environ
REFUSALS = ("EIO", "EMFILE", "ENOMEM")
_NAMES = ("mkdir", "mkdirat", "link", "linkat", "symlink", "rename")
TAKES_SPACE = (*_NAMES, "pwrite64", "fsync", "syncfs", "ftruncate", "fallocate")
"""What allocates on the store's disk, or is told there that the disk was full. Not write(2), by which workers' pipes are
written as well: tests/life/test_life_full_disk.py has disks that really are full."""
CHANGES = (*TAKES_SPACE, "write", "unlink", "unlinkat", "rmdir", "mount", "move_mount", "umount2")
"""What changes what is on the disk, or mounted."""


@pytest.fixture
def store(as_root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    policy(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    try:
        with Service(Config(root=tmp_path / "a", run=tmp_path / "run", worker_user="65534", layouts=LAYOUTS)) as opened:
            yield opened
    finally:
        unmount_below(tmp_path)


def images_of(layout: Layout) -> tuple[str, str]:
    """One that is kept, and one to pull: plain layers, one with a table of contents, one of the other image's."""
    toc = estargz([file("toc", b"toc" * 5000)])
    digest, size = layout.add_blob(toc.blob)
    annotated = LayerBlob(digest, size, toc.diff_id, toc.descriptor.media_type, dict(toc.descriptor.annotations))
    layout.add_image("kept", [layer(layout, "a")])
    layout.add_image("new", [layer(layout, "a"), layer(layout, "b"), annotated])
    return layout.name("kept"), layout.name("new")


def command(service: Service, reference: str) -> tuple[str, ...]:
    where = ("--root", str(service.layout.root), "--run", str(service.config.run))
    return (sys.executable, "-m", "als", *where, "pull", "--local", "-q", reference)


class Tried:
    """One store, in which a pull fails again and again."""

    def __init__(self, store: Service, layout: Layout) -> None:
        self.store = store
        kept, self.new = images_of(layout)
        self.kept = pull(store, kept)
        recover(store)
        self.before = contents(store.layout.root)
        self.size = bytes_on_disk(store.layout.root)

    def points(self) -> list[faults.Point]:
        """All, found by a pull that succeeds and is taken back."""
        found = faults.points(command(self.store, self.new), faults.Below(self.store.layout.root), TAKES_SPACE)
        self.take_back()
        return found

    def take_back(self) -> None:
        for ref in self.store.images.refs():
            if ref.digest != self.kept.digest:
                self.store.images.forget(ref.reference)
        for each in self.store.image_stores:
            each.images.update(list)
        collect(self.store)
        assert contents(self.store.layout.root) == self.before

    def check(self, point: faults.Point) -> None:
        """What was there is sound; what the failed pull has left, gc gives back; the next pull works."""
        # A list that could not be written is written by whoever comes next.
        assert {problem.remedy for problem in fsck(self.store).found} <= {Remedy.LIST}, point
        collect(self.store)
        assert fsck(self.store).found == (), point
        self.take_back()
        # Directories keep blocks that names once needed.
        assert bytes_on_disk(self.store.layout.root) <= self.size + (64 << 10)
        self.store.pull(parse_reference(self.new))
        assert fsck(self.store, deep=True).found == (), point
        self.take_back()


def sample(points: list[faults.Point], count: int = SAMPLE) -> list[faults.Point]:
    """The first of each kind, and some at random."""
    if ALL:
        return points
    first = {point.syscall: point for point in reversed(points)}
    rest = [point for point in points if point not in first.values()]
    return [*first.values(), *random.Random(SEED).sample(rest, min(len(rest), count))]


def test_no_space_at_any_allocation(store: Service, layout: Layout) -> None:
    tried = Tried(store, layout)
    points = tried.points()
    assert {point.syscall for point in points} >= {"mkdir", "rename", "symlink", "syncfs", "fsync"}
    failures = 0
    for point in sample(points):
        done = faults.failed(command(store, tried.new), point, "ENOSPC", last="+")
        text = done.stderr.decode()
        assert "Traceback" not in text, (point, text)
        if done.returncode:
            failures += 1
            assert "no space left" in text.lower() and str(store.layout.root) in text and "make room" in text, (point, text)
        tried.check(point)
    assert failures > len(sample(points)) // 2


def test_other_refusals(store: Service, layout: Layout) -> None:
    """A disk that reports errors, and a kernel without a descriptor or memory to spare."""
    tried = Tried(store, layout)
    for number, point in enumerate(sample(tried.points(), 0)):
        done = faults.failed(command(store, tried.new), point, REFUSALS[number % len(REFUSALS)])
        text = done.stderr.decode()
        assert "Traceback" not in text, (point, text)
        assert done.returncode == 0 or text.startswith("als: "), (point, text)
        tried.check(point)


def test_killed_at_a_system_call(store: Service, layout: Layout) -> None:
    tried = Tried(store, layout)
    for point in sample(tried.points(), 0):
        assert faults.killed(command(store, tried.new), point), point
        recover(store)
        tried.check(point)
