"""The metadata image of a lazy layer, which comes after its first bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.erofs.profile import LAYER
from als.erofs.writer import write_image
from als.errors import Abandoned, BadImage, StoreFull, WorkerError
from als.formats.lazy import tree_of
from als.lazy.drawing import ImageWriters
from als.lazy.layer import LazyLayer
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS
from als.worker.client import Workers
from tests.formats.lazylayers import LazyLayer as Sample
from tests.formats.tocbuilder import file, info, zstd_podman
from tests.harness.memory import descendants
from tests.lazy.faultyregistry import FaultyRegistry
from tests.lazy.site import Site, blobs_of, contents, index_of, read, usual_sources
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


def test_a_process_that_waits_for_an_index(site: Site, sample: Sample) -> None:
    with FaultyRegistry(blobs_of(sample)) as registry:
        site.lazy.expect()
        (waiting,) = os.listdir(site.layout.tmp)
        layer = opened(site, registry, sample)
        site.lazy.draw(layer)
        assert os.listdir(site.layout.tmp) == []
        assert hashlib.sha256(layer.folder.image.read_bytes()).hexdigest() == layer.record.image_sha256
        site.lazy.expect()
        assert os.listdir(site.layout.tmp) not in ([], [waiting])
        site.lazy.expect_no_more()
        assert os.listdir(site.layout.tmp) == []
        site.lazy.expect()
        site.stop()
        assert os.listdir(site.layout.tmp) == []


def test_a_process_whose_file_was_swept(site: Site, sample: Sample) -> None:
    site.lazy.expect()
    (waiting,) = site.layout.tmp.iterdir()
    waiting.unlink()
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        assert hashlib.sha256(layer.folder.image.read_bytes()).hexdigest() == layer.record.image_sha256


def test_a_full_disk_under_the_image(site: Site, sample: Sample, module_dir: Path) -> None:
    with file_system(module_dir, "tmpfs") as small, contextlib.closing(ImageWriters(small, site.workers)) as writers:
        path, _ = writers.write(index_of(sample), DEFAULT_LIMITS)
        assert path.stat().st_size
        room = os.statvfs(small)
        with (small / "filling").open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
        with pytest.raises(StoreFull, match="no space left"):
            writers.write(index_of(sample), DEFAULT_LIMITS)
        assert {each.name for each in small.iterdir()} == {path.name, "filling"}


@pytest.fixture
def sleepers(module_dir: Path, as_root: None) -> Iterator[ImageWriters]:
    """Processes that do nothing."""
    folder = Path(tempfile.mkdtemp(prefix="w", dir=module_dir))
    with (
        Workers((65534, 65534), module_dir / "empty", "tests.lazy.image_sleeper") as workers,
        contextlib.closing(ImageWriters(folder, workers)) as writers,
    ):
        yield writers
    assert list(folder.iterdir()) == []


def test_nobody_waits_for_an_image_when_als_is_stopped(sleepers: ImageWriters, sample: Sample) -> None:
    threading.Timer(1.0, sleepers.close).start()
    with pytest.raises(Abandoned):
        sleepers.write(index_of(sample), DEFAULT_LIMITS)
    with pytest.raises(Abandoned):
        sleepers.write(index_of(sample), DEFAULT_LIMITS)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")


def test_a_writer_that_ends_without_a_word(sleepers: ImageWriters, sample: Sample) -> None:
    sleepers.prepare(DEFAULT_LIMITS)
    (zygote,) = [pid for pid in descendants(os.getpid()) if "image_sleeper" in command_line(pid) and descendants(pid)]
    (writer,) = descendants(zygote)
    threading.Timer(0.5, lambda: os.kill(writer, signal.SIGKILL)).start()
    with pytest.raises(WorkerError, match="ended without an answer"):
        sleepers.write(index_of(sample), DEFAULT_LIMITS)
