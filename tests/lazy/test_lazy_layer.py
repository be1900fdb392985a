"""Lazy layers of all formats, read from a registry that does nothing wrong."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from als.errors import NotFound
from als.lazy.layer import LazyLayer
from als.lazy.schedule import Want
from tests.formats.lazylayers import LazyLayer as Sample
from tests.formats.lazylayers import layers_of
from tests.formats.tocbuilder import estargz, file, zstd_podman, zstd_stargz
from tests.harness.registry import RegistryServer
from tests.harness.system import wait_until
from tests.lazy.faultyregistry import FaultyRegistry
from tests.lazy.site import TIMEOUT, Site, blobs_of, contents, noise, read, usual_sources

FORMATS: dict[str, Callable[[], Sample]] = {
    "estargz": lambda: estargz(usual_sources(), 10_000),
    "estargz-packed": lambda: estargz(usual_sources(), 10_000, minimum=5000),
    "estargz-external": lambda: estargz(usual_sources(), 10_000, external=True),
    "zstd-stargz": lambda: zstd_stargz(usual_sources(), 10_000),
    "zstd-podman": lambda: zstd_podman(usual_sources(), 10_000),
    "zstd-podman-no-split": lambda: zstd_podman(usual_sources(), 10_000, tar_split=False),
}


@pytest.fixture(params=FORMATS)
def sample(request: pytest.FixtureRequest) -> Sample:
    return FORMATS[request.param]()


def check_everything(layer: LazyLayer, expected: dict[bytes, bytes], seed: int = 7) -> None:
    """Read pieces in random order, all of them at once, and then each file whole."""
    order = random.Random(seed)
    reads: list[tuple[bytes, Future[bytes]]] = []
    names = sorted(expected)
    for _ in range(300):
        name = order.choice(names)
        offset = order.randrange(len(expected[name]) + 2)
        length = order.choice([1, 100, 4096, 20_000, 1 << 20])
        reads.append((expected[name][offset : offset + length], layer.read(name, offset, length, TIMEOUT)))
    for data, future in reads:
        assert future.result(TIMEOUT) == data
    for name, data in expected.items():
        assert read(layer, name) == data
        assert layer.size(name) == len(data)


def test_every_byte_in_any_order(site: Site, sample: Sample) -> None:
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        check_everything(layer, contents(sample))
        progress = layer.progress
        assert progress.files == len(contents(sample))
        assert progress.bytes == sum(map(len, contents(sample).values()))
        layer.fill()
        layer.content.result(TIMEOUT)
        progress = layer.progress
        assert (progress.files_here, progress.chunks_here, progress.bytes_here) == (
            progress.files,
            progress.chunks,
            progress.bytes,
        )
    for name, data in contents(sample).items():
        assert (layer.folder.forest / ".als" / name.hex()).read_bytes() == data


def test_nothing_is_fetched_that_is_not_read_or_next_to_it(site: Site) -> None:
    sample = zstd_podman([file(str(number), noise(100_000, number)) for number in range(100)])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        name = hashlib.sha256(noise(100_000, 50)).digest()
        assert read(layer, name, 5, 10) == noise(100_000, 50)[5:15]
        assert len(registry.log) == 1
        assert 100_000 <= registry.asked_bytes <= 400_000
        assert layer.whole_file(name)
        assert read(layer, name) == noise(100_000, 50)
        assert len(registry.log) == 1


def test_readers_share_what_is_in_the_air(site: Site) -> None:
    sample = estargz([file("f", noise(1_000_000, 1))])
    name = hashlib.sha256(noise(1_000_000, 1)).digest()
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        assert site.layer(registry, sample) is layer
        futures = [layer.read(name, 0, 100, TIMEOUT) for _ in range(50)]
        assert {future.result(TIMEOUT) for future in futures} == {noise(1_000_000, 1)[:100]}
        assert len(registry.log) == 1


def test_a_callback_comes_without_a_thread_for_each_reader(site: Site) -> None:
    sample = zstd_podman([file(str(number), noise(2000, number)) for number in range(200)])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        before = threading.active_count()
        done = threading.Semaphore(0)
        futures = [layer.read(name, 0, 2000, TIMEOUT) for name in contents(sample)]
        assert threading.active_count() - before < 30
        for future in futures:
            future.add_done_callback(lambda _: done.release())
        for _ in futures:
            assert done.acquire(timeout=TIMEOUT)


def test_a_read_that_is_cancelled_troubles_nobody(site: Site) -> None:
    sample = estargz([file("f", noise(50_000, 1)), file("g", noise(50_000, 2))])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        name = hashlib.sha256(noise(50_000, 1)).digest()
        futures = [layer.read(name, 0, 10, TIMEOUT) for _ in range(2)]
        futures[0].cancel()
        assert futures[1].result(TIMEOUT) == noise(50_000, 1)[:10]


def test_a_name_that_the_layer_does_not_have(site: Site) -> None:
    sample = estargz([file("f", b"x" * 100)])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        with pytest.raises(NotFound, match="no such file"):
            read(layer, bytes(32))
        with pytest.raises(NotFound):
            layer.size(bytes(32))


def test_what_the_store_has_is_not_fetched(site: Site) -> None:
    sources = usual_sources()
    one, other = zstd_podman(sources), estargz([*sources, file("new", noise(500, 99))], 10_000)
    with FaultyRegistry(blobs_of(one, other)) as registry:
        first = site.layer(registry, one)
        first.fill()
        first.content.result(TIMEOUT)
        first.commit()
        asked = registry.asked_bytes
        second = site.layer(registry, other, "other:2")
        assert second.progress.files_here == second.progress.files - 1
        second.fill()
        second.content.result(TIMEOUT)
        assert registry.asked_bytes - asked < 2000
        name = next(iter(contents(one)))
        assert (first.folder.forest / ".als" / name.hex()).samefile(second.folder.forest / ".als" / name.hex())


def test_what_another_layer_gets_in_the_meantime_is_not_fetched(site: Site) -> None:
    sources = usual_sources()
    one, other = zstd_podman(sources), estargz(sources, 10_000)
    with FaultyRegistry(blobs_of(one, other)) as registry:
        first, second = site.layer(registry, one), site.layer(registry, other, "other:2")
        first.fill()
        first.content.result(TIMEOUT)
        first.commit()
        second.content.result(TIMEOUT)
        assert str(other.descriptor.digest) not in registry.digests


def test_chunks_that_another_layer_has_are_not_fetched(site: Site) -> None:
    """The file is the same in both, and half of it is here; the server would not give the rest."""
    data = noise(1_000_000, 1)
    name = hashlib.sha256(data).digest()
    one, other = zstd_podman([file("f", data)], 50_000), zstd_podman([file("e", b"e" * 100), file("f", data)], 50_000)
    with FaultyRegistry(blobs_of(one, other)) as registry:
        first = site.layer(registry, one)
        assert read(first, name, 0, 500_000) == data[:500_000]
        site.wait_idle(first)
        asked = len(registry.log)
        second = site.layer(registry, other, "other:2")
        assert read(second, name, 100_000, 200_000) == data[100_000:300_000]
        assert len(registry.log) == asked or registry.digests[asked:] == [str(other.descriptor.digest)]
        assert registry.asked_bytes < len(one.blob)
        assert read(second, name) == data


def test_holes_need_no_bytes(site: Site) -> None:
    data = noise(20_000, 1) + bytes(60_000) + noise(20_000, 2)
    sample = zstd_podman([file("f", data), file("zeros", bytes(50_000))], 10_000)
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        assert layer.whole_file(hashlib.sha256(bytes(50_000)).digest())
        name = hashlib.sha256(data).digest()
        assert read(layer, name, 30_000, 40_000) == bytes(40_000)
        assert registry.log == []
        assert read(layer, name) == data
        # A reader is answered before the file has its place.
        wait_until(lambda: layer.whole_file(name), "the file is whole")
        assert (layer.folder.forest / ".als" / name.hex()).read_bytes() == data


def test_prefetch_of_files_and_units(site: Site) -> None:
    sample = zstd_podman([file(str(number), noise(200_000, number)) for number in range(20)])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        names = [hashlib.sha256(noise(200_000, number)).digest() for number in (3, 15)]
        layer.want([bytes(32), *names])
        layer.want_units([9], Want.PREFETCH)
        names.append(hashlib.sha256(noise(200_000, 9)).digest())
        site.wait(lambda: all(map(layer.whole_file, names)))
        assert layer.progress.files_here == 3


def test_what_is_here_can_be_looked_at_and_reads_can_be_foreseen(site: Site) -> None:
    data = noise(100_000, 1)
    name = hashlib.sha256(data).digest()
    sample = zstd_podman([file("d/f", data), file("other", noise(90_000, 2)), file("same", data)], 10_000)
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        assert layer.peek(name, 0, 10) is None
        assert layer.absent_units(name, 0, 20_001) == layer.absent_units(name, 5_000, 20_000) == [0, 1, 2]
        assert registry.log == []
        assert layer.read(name, 25_000, 10, TIMEOUT, Want.GATE).result(TIMEOUT) == data[25_000:25_010]
        assert layer.peek(name, 20_000, 10_000) == data[20_000:30_000]
        assert 2 not in layer.absent_units(name, 0, 30_000)
        assert read(layer, name) == data
        assert layer.peek(name, 99_990, 1000) == data[99_990:]
        assert layer.absent_units(name, 0, 1 << 30) == []
        assert sorted(layer.paths(name)) == [b"d/f", b"same"]
        assert (layer.peek(bytes(32), 0, 1), layer.absent_units(bytes(32), 0, 1), list(layer.paths(bytes(32)))) == (
            None,
            [],
            [],
        )


def test_sequential_reading_asks_ahead(site: Site) -> None:
    data = noise(8_000_000, 1)
    sample = zstd_podman([file("f", data)], 100_000)
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        name = hashlib.sha256(data).digest()
        for offset in range(0, 4_000_000, 131_072):
            assert read(layer, name, offset, 131_072) == data[offset : offset + 131_072]
        # Requests are few and large, and what is read comes from those that were made before it was asked for.
        assert len(registry.log) < 12
        assert registry.asked_bytes < 8_500_000


def test_a_pause_and_a_rate_for_the_background(site: Site) -> None:
    sample = zstd_podman([file(str(number), noise(50_000, number)) for number in range(40)])
    with FaultyRegistry(blobs_of(sample)) as registry:
        site.engine.pause()
        layer = site.layer(registry, sample)
        layer.fill()
        assert layer.filling
        name = hashlib.sha256(noise(50_000, 39)).digest()
        assert read(layer, name) == noise(50_000, 39)
        assert layer.progress.files_here < 40
        here = len(registry.log)
        assert here == 1
        site.engine.limit(50e6)
        site.engine.pause(False)
        layer.content.result(TIMEOUT)


# -- after a restart


def test_a_download_goes_on_where_it_stopped(site: Site, sample: Sample) -> None:
    expected = contents(sample)
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        large = next(name for name, data in expected.items() if data == noise(300_000, 1))
        last = next(name for name, data in expected.items() if data == b"last" * 5000)
        assert read(layer, large, 0, 10) == expected[large][:10]
        assert read(layer, last) == expected[last]
        site.wait_idle(layer)
        before, asked = layer.progress, registry.asked_bytes
        site.stop()
        site.start()
        (again,) = site.lazy.resume(lambda _: registry.address)
        assert again.key == layer.key
        assert again.progress == before
        assert read(again, large, 0, 10) == expected[large][:10]
        assert registry.asked_bytes == asked
        check_everything(again, expected)
        again.fill()
        again.content.result(TIMEOUT)
        assert registry.asked_bytes <= len(sample.blob) + 50_000


def test_after_a_power_cut_anything_may_be_in_the_files(site: Site) -> None:
    data = noise(300_000, 1)
    sample = zstd_podman([file("f", data), file("g", noise(900_000, 2)), file("h", noise(10, 3))], 10_000)
    names = [hashlib.sha256(each).digest() for each in (data, noise(900_000, 2), noise(10, 3))]
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        for name in (names[0], names[2]):
            assert read(layer, name)
        read(layer, names[1], 0, 100)
        site.wait_idle(layer)
        site.stop()
        forest, parts = layer.folder.forest / ".als", layer.folder.path / "parts"
        # What had no name in the store yet: zeros, a tail that is missing, garbage, leftovers.
        for path in (forest / names[0].hex(), forest / names[2].hex()):
            path.chmod(0o644)
        (forest / names[0].hex()).write_bytes(bytes(300_000))
        (forest / names[2].hex()).write_bytes(noise(10, 3)[:5])
        with (parts / names[1].hex()).open("r+b") as part:
            part.write(b"garbage")
        (parts / "new-1-leftover").write_bytes(b"x")
        (forest / ("ab" * 32)).write_bytes(b"stranger")
        (layer.folder.path / "layer.erofs").write_bytes(bytes(8192))
        image = layer.record.image_sha256
        site.start()
        (again,) = site.lazy.resume(lambda _: registry.address)
        assert hashlib.sha256((again.folder.path / "layer.erofs").read_bytes()).hexdigest() == image
        assert not again.whole_file(names[0])
        assert not again.whole_file(names[2])
        assert sorted(os.listdir(forest)) == []
        assert "new-1-leftover" not in os.listdir(parts)
        for name, expected in zip(names, (data, noise(900_000, 2), noise(10, 3)), strict=True):
            assert read(again, name) == expected


def test_a_folder_that_is_torn_is_left_out(
    site: Site, caplog: pytest.LogCaptureFixture, expect_log: Callable[[str], None]
) -> None:
    expect_log("cannot be resumed")
    sample = zstd_podman([file("f", b"x" * 100)])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        site.stop()
        index = layer.folder.path / "index"
        index.write_bytes(index.read_bytes()[:-3])
        site.start()
        assert site.lazy.resume(lambda _: registry.address) == []


# -- real things


@pytest.mark.parametrize(
    "fixture",
    [
        "estargz-tiny",
        "estargz-prioritized-tiny",
        "estargz-externaltoc-tiny",
        "zstdchunked-skopeo122-tiny",
        "zstdchunked-image5.42-tiny",
    ],
)
def test_fixtures(site: Site, fixtures_dir: Path, fixture: str) -> None:
    samples = list(layers_of(next(path.parent for path in sorted((fixtures_dir / fixture).rglob("index.json")))))
    assert samples
    with FaultyRegistry(blobs_of(*samples)) as registry:
        for sample in samples:
            layer = site.layer(registry, sample)
            check_everything(layer, contents(sample))


def test_a_real_registry(site: Site, registry_server: RegistryServer, fixtures_dir: Path) -> None:
    layout = next(path.parent for path in sorted((fixtures_dir / "zstdchunked-skopeo122-tiny").rglob("index.json")))
    reference = registry_server.push(f"oci:{layout}", "tiny:1")
    sample = next(layers_of(layout))
    layer = site.layer(registry_server.address, sample, reference.partition("/")[2])
    check_everything(layer, contents(sample))
    statuses = {status for _, path, status in registry_server.requests() if str(sample.descriptor.digest) in path}
    assert 206 in statuses
