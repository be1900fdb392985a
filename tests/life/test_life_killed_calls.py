"""`als rm` and `als gc` get SIGKILL at a system call that changes the store: what is kept is sound, and the next one goes on.

A pull is killed so in test_life_faults.py and test_life_killed_pull.py, a daemon that seals in test_life_lazy_faults.py, and
who changes a count of clients in test_life_uses.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from als.model.reference import parse_reference
from als.service import Service
from als.service.recovery import recover
from als.service.removal import collect, remove
from als.service.repair import fsck
from tests.harness import faults
from tests.harness.ocilayout import Layout
from tests.life.history import policy
from tests.life.stores import contents, image
from tests.life.test_life_faults import CHANGES, sample


class Shelf:
    """A store with an image that stays, and one that shares a layer with it and goes."""

    def __init__(self, service: Service, layout: Layout) -> None:
        self.service = service
        self.kept, self.gone = image(layout, "kept", "shared", "kept"), image(layout, "gone", "shared", "gone", "top")
        self._pull(self.kept)
        collect(service)
        self.without = contents(service.layout.root)
        # As restore() does, so that the points that are found now are those that come up later.
        self._pull(self.gone)
        collect(service)
        self.whole = contents(service.layout.root)

    def _pull(self, reference: str) -> None:
        self.service.pull(parse_reference(reference), asked=True)

    def command(self, *arguments: str) -> tuple[str, ...]:
        where = ("--root", str(self.service.layout.root), "--run", str(self.service.config.run))
        return (sys.executable, "-m", "als", *where, *arguments)

    def points(self, *arguments: str) -> list[faults.Point]:
        return faults.points(self.command(*arguments), faults.Below(self.service.layout.root), CHANGES)

    def restore(self) -> None:
        self._pull(self.gone)
        collect(self.service)
        assert contents(self.service.layout.root) == self.whole

    def check(self, point: faults.Point) -> set[str]:
        """As the next daemon finds it; returns the references."""
        recover(self.service)
        assert fsck(self.service, deep=True).found == (), point
        named = {ref.reference for ref in self.service.images.refs()}
        assert self.listed() == named >= {self.kept}, point
        return named

    def listed(self) -> set[str]:
        """What both image stores have podman list; images of a local layout have no names there."""
        images = self.service.images
        names = {images.get(ref.digest).manifest.config.digest.hex: ref.reference for ref in images.refs()}
        files = [json.loads(store.images.list_file.read_bytes()) for store in self.service.image_stores]
        (ids,) = {frozenset(str(each["id"]) for each in listed) for listed in files}
        return {names.get(image_id, image_id) for image_id in ids}


@pytest.fixture
def shelf(service: Service, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    policy(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Shelf(service, layout)


def test_rm(shelf: Shelf) -> None:
    points = shelf.points("rm", shelf.gone)
    assert {point.syscall for point in points} >= {"unlink", "fsync", "rename", "write"}
    shelf.restore()
    for point in sample(points, 0):
        assert faults.killed(shelf.command("rm", shelf.gone), point), point
        if shelf.gone in shelf.check(point):
            assert contents(shelf.service.layout.root) == shelf.whole, point
        shelf.restore()


def test_gc(shelf: Shelf) -> None:
    remove(shelf.service, shelf.gone)
    points = shelf.points("gc")
    assert {point.syscall for point in points} >= {"unlink", "fsync", "rename", "rmdir", "umount2", "write"}
    shelf.restore()
    chosen, died = sample(points, 0), 0
    for point in chosen:
        remove(shelf.service, shelf.gone)
        died += faults.killed(shelf.command("gc"), point)
        assert fsck(shelf.service).found == (), point
        assert shelf.check(point) == {shelf.kept}
        collect(shelf.service)
        assert contents(shelf.service.layout.root) == shelf.without, point
        shelf.restore()
    # One more state of an image store, or one less, is left to be removed: the last call of a kind may not be made.
    assert died >= len(chosen) * 9 // 10
