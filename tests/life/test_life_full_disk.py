"""A disk that becomes full at any moment of a pull or of gc: a clear error, nothing lost, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from als.config import Config
from als.errors import StoreError, StoreFull
from als.mount.unmounting import unmount_below
from als.service import Service
from als.service.recovery import recover
from als.service.removal import collect
from als.service.repair import fsck
from als.store.trash import Trash
from tests.harness.ocilayout import Layout
from tests.life.smalldisk import Ballast, file_system
from tests.life.stores import contents, image, pull

pytestmark = pytest.mark.usefixtures("as_root")

SMALL = 4096


@contextmanager
def opened(point: Path, folder: Path) -> Iterator[Service]:
    with Service(Config(root=point / "a", run=folder / "run", worker_user="65534")) as service:
        yield service
    unmount_below(point / "a")


def check_failure(service: Service, reference: str, before: set[str]) -> bool:
    """Pull; where that fails for lack of space, nothing of it is left, and what was there is sound."""
    try:
        pull(service, reference)
    except StoreFull as error:
        assert "no space left" in str(error)
        assert error.hint
        assert contents(service.layout.root) == before
        assert fsck(service).found == ()
        return False
    return True


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_blocks_run_out(tmp_path: Path, layout: Layout, kind: str) -> None:
    kept, big = image(layout, "kept", "a", "b"), image(layout, "big", "a", *(f"n{number}" for number in range(9)))
    with file_system(tmp_path, kind) as point, opened(point, tmp_path) as service:
        pull(service, kept)
        before = contents(service.layout.root)
        ballast = Ballast(point)
        outcomes = []
        for free in (0, SMALL, *range(5 * SMALL, 1 << 20, 14 * SMALL)):
            ballast.leave_bytes(free)
            outcomes.append(check_failure(service, big, before))
            ballast.drop()
            if outcomes[-1]:
                break
        assert outcomes[-1] and len(outcomes) > 5
        assert fsck(service, deep=True).found == ()


def test_inodes_run_out(tmp_path: Path, layout: Layout) -> None:
    kept, big = image(layout, "kept", "a", "b"), image(layout, "big", "a", *(f"n{number}" for number in range(9)))
    with file_system(tmp_path, "inodes") as point, opened(point, tmp_path) as service:
        pull(service, kept)
        before = contents(service.layout.root)
        ballast = Ballast(point)
        outcomes = []
        for free in (0, 1, 2, 3, 5, 7, *range(10, 1000, 26)):
            ballast.leave_inodes(free)
            outcomes.append(check_failure(service, big, before))
            ballast.drop()
            if outcomes[-1]:
                break
        assert outcomes[-1] and len(outcomes) > 5
        assert fsck(service, deep=True).found == ()


@pytest.mark.parametrize("kind", ["ext4", "inodes", "tmpfs"])
def test_gc_makes_room_on_a_full_disk(tmp_path: Path, layout: Layout, kind: str) -> None:
    """Also where nothing is dead but what is listed, so that the list has to be written before anything is freed."""
    kept, dead = image(layout, "kept", "a", "b"), image(layout, "dead", "a", "c", "d")
    with file_system(tmp_path, kind) as point, opened(point, tmp_path) as service:
        pull(service, kept)
        collect(service)
        alive = contents(service.layout.root)
        ballast = Ballast(point)
        for without_image in (False, True):
            gone = pull(service, dead)
            ref = service.ref_of(dead)
            assert ref is not None
            service.images.forget(ref.reference)
            if without_image:
                service.images.discard(gone.digest, Trash(service.layout))
            ballast.leave_inodes(0) if kind == "inodes" else ballast.leave_bytes(0)
            assert len(collect(service).layers) == 2
            assert contents(service.layout.root) == alive
            assert fsck(service, deep=True).found == ()
            ballast.drop()


def test_a_store_can_be_opened_on_a_full_disk(tmp_path: Path, layout: Layout) -> None:
    kept = image(layout, "kept", "a", "b")
    with file_system(tmp_path, "ext4") as point:
        with opened(point, tmp_path) as service:
            pulled = pull(service, kept)
        Ballast(point).leave_bytes(0)
        with opened(point, tmp_path) as service:
            recover(service)
            assert service.diff_n.is_ready(pulled.chain[-1])


def test_a_store_cannot_be_made_on_a_full_disk(tmp_path: Path) -> None:
    with file_system(tmp_path, "ext4") as point:
        Ballast(point).leave_bytes(0)
        with pytest.raises(StoreError, match="cannot be set up"), opened(point, tmp_path):
            pass
