"""The metadata image of a lazy layer, which comes after its first bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from als.erofs.profile import LAYER
from als.erofs.writer import write_image
from als.errors import Abandoned, BadImage, StoreFull, WorkerError
from als.fetch.tocs import read_index
from als.formats.index import LayerIndex
from als.formats.indexrows import pack_rows
from als.formats.lazy import tree_of
from als.lazy.drawing import ImageWriter
from als.lazy.layer import LazyLayer
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS
from als.worker.client import Workers
from als.worker.frames import END, ERROR, FrameWriter
from als.worker.image_job import ROWS
from tests.formats.lazylayers import LazyLayer as Sample
from tests.formats.tocbuilder import estargz, file, info, zstd_podman
from tests.harness.memory import descendants
from tests.lazy.faultyregistry import FaultyRegistry
from tests.lazy.site import TIMEOUT, Site, blobs_of, contents, index_of, read, usual_sources
from tests.lazy.test_lazy_layer import check_everything
from tests.life.smalldisk import file_system


@pytest.fixture
def sample() -> Sample:
    return zstd_podman(usual_sources(), 10_000)


def opened(site: Site, registry: FaultyRegistry, sample: Sample) -> LazyLayer:
    """A layer without an image."""
    site.address = registry.address
    diff_id = Digest.parse(sample.diff_id)
    return site.lazy.open(f"{site.address}/img:1", site.address, sample.descriptor, diff_id, index_of(sample), "zstdchunked")


def test_bytes_come_before_the_image(site: Site, sample: Sample) -> None:
    expected = contents(sample)
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = opened(site, registry, sample)
        assert not layer.folder.image.exists()
        check_everything(layer, expected)
        site.lazy.draw(layer)
        whole = io.BytesIO()
        write_image(tree_of(index_of(sample)), whole, LAYER)
        assert layer.folder.image.read_bytes() == whole.getvalue()
        assert layer.record.image_sha256 == hashlib.sha256(whole.getvalue()).hexdigest()
        assert layer.folder.record() == layer.record
        inode = layer.folder.image.stat().st_ino
        site.lazy.draw(layer)
        assert layer.folder.image.stat().st_ino == inode
        assert opened(site, registry, sample) is layer


def test_a_layer_that_was_never_shown_is_forgotten_at_a_restart(site: Site, sample: Sample) -> None:
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = opened(site, registry, sample)
        site.stop()
        site.start()
        assert site.lazy.resume(lambda _: registry.address) == []
        assert not layer.folder.path.exists()
        check_everything(site.layer(registry, sample), contents(sample))


def test_an_index_that_makes_no_layer_leaves_nothing(site: Site) -> None:
    """A hardlink to nothing: only the tree can tell. Whoever waits for the same layer is told too."""
    sample = zstd_podman([(info("a", tarfile.LNKTYPE, link="b"), b""), file("c", b"c" * 100)])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = opened(site, registry, sample)
        for _ in range(2):
            with pytest.raises(BadImage, match="a hardlink to b, which does not exist"):
                site.lazy.draw(layer)
        assert site.lazy.all() == []
        assert os.listdir(site.layout.lazy) == []
        with pytest.raises(BadImage):
            read(layer, hashlib.sha256(b"c" * 100).digest())


# -- the process that writes it


def new_writer(folder: Path, workers: Workers, check: Callable[[], None] = lambda: None) -> ImageWriter:
    return ImageWriter(folder / "image", workers, DEFAULT_LIMITS, check)


def image_of(index: LayerIndex) -> bytes:
    whole = io.BytesIO()
    write_image(tree_of(index), whole, LAYER)
    return whole.getvalue()


def send(writer: ImageWriter, *frames: tuple[int, bytes]) -> None:
    """What an indexer does, or somebody in its place."""
    out = FrameWriter(writer.rows)
    for kind, body in frames:
        out.write(kind, body)
    out.flush()


def runs(index: LayerIndex, size: int = 7) -> list[tuple[int, bytes]]:
    count = len(index)
    return [(ROWS, pack_rows(index.columns, at, min(at + size, count))) for at in range(0, count, size)]


def refuse_to_send_it(_: LayerIndex) -> Iterator[bytes]:
    raise AssertionError("the index is not needed")


def test_an_image_of_rows(site: Site, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(sample)
    writer = new_writer(tmp_path, site.workers)
    send(writer, *runs(index), (END, b"{}"))
    monkeypatch.setattr("als.lazy.drawing.pack", refuse_to_send_it)
    assert writer.write(index) == hashlib.sha256(image_of(index)).hexdigest()
    assert writer.path.read_bytes() == image_of(index)


@pytest.mark.parametrize(
    "frames",
    [
        lambda index: [],
        lambda index: runs(index),
        lambda index: [(END, b"{}")],
        lambda index: [*runs(index)[:-1], (END, b"{}")],
        lambda index: [*runs(index), *runs(index), (END, b"{}")],
        lambda index: [(ROWS, b"garbage"), (END, b"{}")],
        lambda index: [(ROWS, runs(index)[0][1][:-1]), (END, b"{}")],
        lambda index: [*runs(index_of(estargz([file("other", b"x" * 100)]))), (END, b"{}")],
        lambda index: [(ord("Q"), b"")],
        lambda index: [(ERROR, b'{"type": "StoreFull", "what": "a lie"}')],
    ],
    ids=["nothing", "no end", "none", "fewer", "twice", "garbage", "torn", "another's", "unknown", "error"],
)
def test_rows_that_are_not_the_index(
    site: Site, sample: Sample, tmp_path: Path, frames: Callable[[LayerIndex], list[tuple[int, bytes]]]
) -> None:
    """From an indexer that was taken over, say: the image is of the index that was checked, whatever else has come."""
    index = index_of(sample)
    writer = new_writer(tmp_path, site.workers)
    send(writer, *frames(index))
    assert writer.write(index) == hashlib.sha256(image_of(index)).hexdigest()
    assert writer.path.read_bytes() == image_of(index)


def test_the_indexer_s_own_rows(site: Site, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both processes, as a pull has them."""
    monkeypatch.setattr("als.lazy.drawing.pack", refuse_to_send_it)
    with FaultyRegistry(blobs_of(sample)) as registry:
        site.address = registry.address
        writer = site.lazy.image_writer()
        source = site.source()
        with contextlib.closing(source):
            index = read_index(source, sample.descriptor, site.workers, tag="", stall=TIMEOUT, rows=lambda: writer.rows)
        assert index is not None
        diff_id, where = Digest.parse(sample.diff_id), f"{site.address}/img:1"
        layer = site.lazy.open(where, site.address, sample.descriptor, diff_id, index, "zstdchunked", writer=writer)
        site.lazy.draw(layer)
        assert layer.folder.image.read_bytes() == image_of(index_of(sample))
        assert list(site.layout.tmp.iterdir()) == []


def test_a_writer_that_is_not_needed(site: Site, sample: Sample) -> None:
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        writer = site.lazy.image_writer()
        assert writer.path.exists()
        diff_id, record = Digest.parse(sample.diff_id), layer.record
        again = site.lazy.open(
            record.reference, site.address, sample.descriptor, diff_id, layer.index, "zstdchunked", writer=writer
        )
        assert again is layer
        assert list(site.layout.tmp.iterdir()) == []
        site.lazy.image_writer().close()
        assert list(site.layout.tmp.iterdir()) == []


def test_a_full_disk_under_the_image(site: Site, sample: Sample, module_dir: Path) -> None:
    index = index_of(sample)
    with file_system(module_dir, "tmpfs") as small:
        room = os.statvfs(small)
        with (small / "filling").open("xb") as filling:
            os.posix_fallocate(filling.fileno(), 0, room.f_bavail * room.f_frsize)
        for frames in ([], [*runs(index), (END, b"{}")]):
            writer = new_writer(small, site.workers)
            send(writer, *frames)
            with pytest.raises(StoreFull, match="no space left"):
                writer.write(index)
            assert [each.name for each in small.iterdir()] == ["filling"]


@pytest.fixture
def sleepers(module_dir: Path, as_root: None) -> Iterator[Workers]:
    """Processes that do nothing."""
    with Workers((65534, 65534), module_dir / "empty", "tests.lazy.image_sleeper") as workers:
        yield workers


def test_nobody_waits_for_an_image_when_als_is_stopped(sleepers: Workers, sample: Sample, tmp_path: Path) -> None:
    begun = time.monotonic()

    def check() -> None:
        if time.monotonic() - begun > 1:
            raise Abandoned("als is being stopped")

    with pytest.raises(Abandoned):
        new_writer(tmp_path, sleepers, check).write(index_of(sample))
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_ends_without_a_word(sleepers: Workers, sample: Sample, tmp_path: Path) -> None:
    writer = new_writer(tmp_path, sleepers)
    (zygote,) = [pid for pid in descendants(os.getpid()) if "image_sleeper" in command_line(pid) and descendants(pid)]
    (process,) = descendants(zygote)
    threading.Timer(0.5, lambda: os.kill(process, signal.SIGKILL)).start()
    with pytest.raises(WorkerError, match="ended without an answer"):
        writer.write(index_of(sample))
    assert list(tmp_path.iterdir()) == []


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")
