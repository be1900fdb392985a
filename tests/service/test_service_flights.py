"""Lookups of layers that are still under way, as the FUSE face makes them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from als.config import Config
from als.errors import DeadlineExceeded, DigestMismatch, NotFound
from als.fuse.layers import StoreBackend
from als.model.reference import parse_reference
from als.service import Service
from tests.harness.gated import GatedRegistry
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.system import unmount_below, wait_until


@pytest.fixture
def registry(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedRegistry]:
    with GatedRegistry(layout) as server:
        conf = tmp_path / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{server.address}"\ninsecure = true\n')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        yield server


@pytest.fixture
def backend(service: Service) -> StoreBackend:
    return StoreBackend(service)


def layer(number: int) -> bytes:
    return TarBuilder().file(f"file-{number}", os.urandom(200_000)).build()


def test_a_layer_is_answered_as_soon_as_it_and_those_below_are_there(
    service: Service, backend: StoreBackend, layout: Layout, registry: GatedRegistry
) -> None:
    blobs = [layout.add_layer(layer(number)) for number in range(3)]
    layout.add_image("t", blobs)
    reference = f"{registry.address}/name:t"
    gate = registry.hold(blobs[1].digest)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(backend.lookup, reference, blob.digest) for blob in blobs]
        first = answers[0].result(30)
        assert first is not None
        assert (first.diff / "file-0").stat().st_size == 200_000
        assert list(service.diff_n.published()) == [first.key]
        assert not answers[1].done()
        assert not answers[2].done()
        gate.set()
        served = [answer.result(30) for answer in answers]
    assert [one.key for one in served if one is not None] == list(service.diff_n.published())
    assert sorted(set(registry.blobs_asked())) == sorted(registry.blobs_asked()), "each blob was asked for once"
    info = json.loads(first.info)
    assert info["diff-digest"] == blobs[0].diff_id
    assert info["compressed-diff-digest"] == blobs[0].digest
    assert service.images.ref(reference) is not None, "the image is recorded before its last layer is answered"


def test_many_askers_one_download(backend: StoreBackend, layout: Layout, registry: GatedRegistry) -> None:
    blob = layout.add_layer(layer(0))
    layout.add_image("t", [blob])
    gate = registry.hold(blob.digest)
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(backend.lookup, f"{registry.address}/name:t", blob.digest) for _ in range(20)]
        wait_until(lambda: registry.blobs_asked() != [], "the download has begun")
        gate.set()
        assert len({answer.result(30) for answer in answers}) == 1
    assert registry.blobs_asked().count(blob.digest) == 1


def test_a_daemon_and_a_command_line_make_a_layer_once(
    config: Config, service: Service, backend: StoreBackend, layout: Layout, registry: GatedRegistry
) -> None:
    blob = layout.add_layer(layer(0))
    layout.add_image("t", [blob])
    gate = registry.hold(blob.digest)
    reference = f"{registry.address}/name:t"
    with Service(config) as other, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(backend.lookup, reference, blob.digest)]
        wait_until(lambda: blob.digest in registry.blobs_asked(), "the download has begun")
        pulled = pool.submit(other.pull, parse_reference(reference))
        wait_until(lambda: len([path for path in registry.asked if "manifests" in path]) == 2, "the second has begun")
        gate.set()
        assert answers[0].result(30) is not None
        pulled.result(30)
    assert registry.blobs_asked().count(blob.digest) == 1


def test_no_progress_ends_the_wait_and_the_next_try_works(
    tmp_path: Path, layout: Layout, registry: GatedRegistry, as_root: None
) -> None:
    blob = layout.add_layer(layer(0))
    layout.add_image("t", [blob])
    gate = registry.hold(blob.digest)
    reference = f"{registry.address}/name:t"
    config = Config(root=tmp_path / "root", run=tmp_path / "run", worker_user="65534", lookup_deadline=1.0)
    try:
        with Service(config) as service:
            backend = StoreBackend(service)
            with pytest.raises(DeadlineExceeded, match="no progress for 1 seconds"):
                backend.lookup(reference, blob.digest)
            gate.set()
            wait_until(lambda: os.listdir(service.layout.tmp) == [], "the aborted attempt is gone")
            assert backend.lookup(reference, blob.digest) is not None
    finally:
        unmount_below(tmp_path)


def test_what_is_not_served(backend: StoreBackend, layout: Layout, registry: GatedRegistry) -> None:
    blob, other = layout.add_layer(layer(0)), layout.add_layer(layer(1))
    layout.add_image("t", [blob, other, blob])
    reference = f"{registry.address}/name:t"
    assert backend.lookup(reference, blob.digest) is None, "listed twice"
    assert blob.digest not in registry.blobs_asked()
    with pytest.raises(NotFound, match="has the layer"):
        backend.lookup(reference, "sha256:" + "0" * 64)
    with pytest.raises(NotFound):
        backend.lookup(f"{registry.address}/name:missing", blob.digest)
    assert backend.lookup(reference, other.digest) is not None


def test_failures_are_not_remembered(backend: StoreBackend, layout: Layout, registry: GatedRegistry) -> None:
    blob = layout.add_layer(layer(0))
    layout.add_image("t", [blob])
    whole = layout.blob(blob.digest).read_bytes()
    layout.blob(blob.digest).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DigestMismatch):
        backend.lookup(f"{registry.address}/name:t", blob.digest)
    layout.blob(blob.digest).write_bytes(whole)
    assert backend.lookup(f"{registry.address}/name:t", blob.digest) is not None


def test_a_moved_tag_is_followed(service: Service, backend: StoreBackend, layout: Layout, registry: GatedRegistry) -> None:
    held, dropped, new = (layout.add_layer(layer(number)) for number in range(3))
    reference = f"{registry.address}/name:t"
    layout.add_image("t", [held, dropped])
    for blob in (held, dropped):
        assert backend.lookup(reference, blob.digest) is not None
        backend.use(reference, blob.digest)
    backend.release(reference, dropped.digest)
    layout.add_image("t", [new])
    assert backend.lookup(reference, new.digest) is not None
    assert backend.lookup(reference, held.digest) is not None
    with pytest.raises(NotFound):
        backend.lookup(reference, dropped.digest)


def test_the_blob_is_fetched_again_and_verified(backend: StoreBackend, layout: Layout, registry: GatedRegistry) -> None:
    blob = layout.add_layer(layer(0))
    layout.add_image("t", [blob])
    reference = f"{registry.address}/name:t"
    whole = layout.blob(blob.digest).read_bytes()
    file = backend.open_blob(reference, blob.digest)
    assert file.size == len(whole)
    assert file.read_at(0, len(whole)) == whole
    assert file.read_at(100, 50) == whole[100:150]
    assert file.read_at(len(whole), 10) == b""
    file.close()
    layout.blob(blob.digest).write_bytes(whole[::-1])
    with pytest.raises(DigestMismatch):
        backend.open_blob(reference, blob.digest)


def test_counts_reach_the_disk(service: Service, backend: StoreBackend) -> None:
    backend.use("host/name:t", "sha256:" + "1" * 64)
    backend.use("host/name:t", "sha256:" + "1" * 64)
    backend.release("host/name:t", "sha256:" + "1" * 64)
    assert [(use.reference, use.count) for use in service.uses.all()] == [("host/name:t", 1)]
    backend.release("not even a reference", "sha256:" + "2" * 64)
    assert len(service.uses.all()) == 1


def test_the_pull_goes_on_when_nobody_waits(
    service: Service, backend: StoreBackend, layout: Layout, registry: GatedRegistry
) -> None:
    """A client that gave up finds the layer there when it comes back."""
    blob = layout.add_layer(layer(0))
    layout.add_image("t", [blob])
    gate = registry.hold(blob.digest)
    reference = f"{registry.address}/name:t"
    threading.Thread(target=backend.lookup, args=(reference, blob.digest), daemon=True).start()
    wait_until(lambda: blob.digest in registry.blobs_asked(), "the download has begun")
    gate.set()
    wait_until(lambda: service.images.ref(reference) is not None, "the pull is complete")
    assert registry.blobs_asked().count(blob.digest) == 1
