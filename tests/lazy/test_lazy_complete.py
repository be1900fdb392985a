"""When all of a layer is here: its DiffID, its recipe, and the finished layer in the store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from als.errors import AlsError, BadImage, DigestMismatch, RegistryError
from als.lazy.layer import LazyLayer
from als.store.layers import LayerRecord
from als.store.recipe import tar_stream
from tests.formats.lazylayers import LazyLayer as Sample
from tests.formats.lazylayers import layers_of
from tests.formats.tocbuilder import (
    Row,
    Writer,
    document_of,
    estargz,
    file,
    finish_estargz,
    finish_podman,
    gzip_member,
    zstd_frame,
    zstd_podman,
)
from tests.lazy.faultyregistry import Answer, FaultyRegistry
from tests.lazy.site import TIMEOUT, Site, blobs_of, contents, noise, read, usual_sources
from tests.lazy.test_lazy_layer import FORMATS

Expect = Callable[[str], None]


def stream_of(site: Site, record: LayerRecord) -> bytes:
    forest = site.layers.forest(record.diff_id) / ".als"

    def open_object(sha256: bytes) -> int:
        return os.open(forest / sha256.hex(), os.O_RDONLY)

    return b"".join(tar_stream(site.layers.recipe(record.diff_id), open_object))


def filled(site: Site, registry: FaultyRegistry, sample: Sample) -> LazyLayer:
    layer = site.layer(registry, sample)
    layer.fill()
    layer.content.result(TIMEOUT)
    return layer


def check_finished(site: Site, sample: Sample, record: LayerRecord, layer: LazyLayer) -> None:
    assert str(record.diff_id) == sample.diff_id
    assert site.layers.has(record.diff_id)
    stream = stream_of(site, record)
    assert "sha256:" + hashlib.sha256(stream).hexdigest() == sample.diff_id
    assert record.diff_size == len(stream)
    forest = site.layers.forest(record.diff_id) / ".als"
    assert {bytes.fromhex(path.name): path.read_bytes() for path in forest.iterdir()} == contents(sample)
    for path in forest.iterdir():
        assert path.samefile(site.layout.object(bytes.fromhex(path.name)))
        assert path.stat().st_mode & 0o777 == 0o444
    image = site.layers.image(record.diff_id)
    assert image.samefile(layer.folder.image)
    assert hashlib.sha256(image.read_bytes()).hexdigest() == layer.record.image_sha256


@pytest.mark.parametrize("flavour", FORMATS)
def test_a_layer_is_sealed(site: Site, flavour: str) -> None:
    sample = FORMATS[flavour]()
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = filled(site, registry, sample)
        record = site.sealer.seal(layer)
        check_finished(site, sample, record, layer)
        # Not much more than the blob was fetched for all that.
        assert registry.asked_bytes <= len(sample.blob) + 2 * layer.size(hashlib.sha256(noise(300_000, 1)).digest())
        assert site.sealer.seal(layer) == record
        assert read(layer, hashlib.sha256(b"last" * 5000).digest()) == b"last" * 5000


@pytest.mark.parametrize("fixture", ["estargz-tiny", "zstdchunked-skopeo122-tiny", "zstdchunked-image5.42-tiny"])
def test_fixtures_are_sealed(site: Site, fixtures_dir: Path, fixture: str) -> None:
    for sample in layers_of(fixtures_dir / fixture):
        with FaultyRegistry(blobs_of(sample)) as registry:
            layer = filled(site, registry, sample)
            check_finished(site, sample, site.sealer.seal(layer), layer)


def test_a_layer_of_which_everything_was_in_the_store(site: Site) -> None:
    """For zstd:chunked only the tar-split is fetched; for eStargz the units, for what lies beside the files."""
    one, other = zstd_podman(usual_sources()), zstd_podman([*usual_sources(), file("empty", b"")])
    third = estargz(usual_sources(), 10_000)
    with FaultyRegistry(blobs_of(one, other, third)) as registry:
        site.sealer.seal(filled(site, registry, one))
        asked = registry.asked_bytes
        layer = filled(site, registry, other)
        assert registry.asked_bytes == asked
        missing = site.sealer.missing(layer)
        check_finished(site, other, site.sealer.seal(layer), layer)
        assert registry.asked_bytes - asked == missing < 5000
        layer = filled(site, registry, third)
        assert site.sealer.missing(layer) > 300_000
        check_finished(site, third, site.sealer.seal(layer), layer)


def test_a_restart_between_content_and_seal(site: Site) -> None:
    sample = estargz(usual_sources(), 10_000)
    with FaultyRegistry(blobs_of(sample)) as registry:
        filled(site, registry, sample)
        site.stop()
        site.start()
        (layer,) = site.lazy.resume(lambda _: registry.address)
        layer.content.result(TIMEOUT)
        asked = registry.asked_bytes
        check_finished(site, sample, site.sealer.seal(layer), layer)
        # Nothing but what nobody needed before: the units of the file that is there twice.
        assert registry.asked_bytes - asked < 320_000


def test_not_before_everything_is_here(site: Site) -> None:
    sample = zstd_podman(usual_sources())
    with FaultyRegistry(blobs_of(sample)) as registry, pytest.raises(BadImage, match="not all files"):
        site.sealer.seal(site.layer(registry, sample))


# -- layers that are not what they seem


def refused(site: Site, sample: Sample, words: str) -> AlsError:
    """A layer that is refused when it is complete, and for ever."""
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = filled(site, registry, sample)
        with pytest.raises(BadImage, match=words) as caught:
            site.sealer.seal(layer)
        assert layer.refused is not None
        assert not site.layers.ids()
        with pytest.raises(BadImage):
            read(layer, next(iter(contents(sample))))
        with pytest.raises(BadImage, match="refused before"):
            site.layer(registry, sample)
    site.stop()
    site.start()
    assert site.lazy.resume(lambda _: "nowhere") == []
    return caught.value


@pytest.mark.parametrize("flavour", ["estargz", "zstd-podman", "zstd-podman-no-split"])
def test_another_diff_id_than_the_config_says(site: Site, flavour: str) -> None:
    sample = FORMATS[flavour]()
    sample.diff_id = "sha256:" + "5" * 64
    error = refused(site, sample, "its content is sha256:")
    assert isinstance(error, DigestMismatch)
    assert str(sample.descriptor.digest) in str(error)


def lying(flavour: str, change: Callable[[list[Row]], None]) -> Sample:
    made = Writer(gzip_member, 1000) if flavour == "estargz" else Writer(zstd_frame, 1000, headers_apart=True)
    for member, content in (file("a", b"a" * 2500), file("b", b"b" * 100)):
        made.add(member, content)
    if flavour == "podman":
        made.end()
    change(made.rows)
    return finish_estargz(made, document_of(made.rows)) if flavour == "estargz" else finish_podman(made)


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
def test_headers_that_tell_of_another_layer(site: Site, flavour: str) -> None:
    def change(rows: list[Row]) -> None:
        rows[-1]["mode"] = 0o4755

    refused(site, lying(flavour, change), "b: the stream and the index say different things")


def test_a_tar_split_that_tells_of_other_files(site: Site) -> None:
    made = Writer(zstd_frame, 1000, headers_apart=True)
    made.add(*file("a", b"a" * 2500))
    made.end()
    made.splits[1]["size"] = 2499
    refused(site, finish_podman(made), "ends within a header")


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
def test_chunks_that_together_are_another_file(site: Site, flavour: str) -> None:
    def change(rows: list[Row]) -> None:
        rows[0]["digest"] = "sha256:" + "1" * 64

    sample = lying(flavour, change)
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = site.layer(registry, sample)
        # What each chunk promises can be read until all of them are here.
        assert read(layer, b"\x11" * 32, 10, 20) == b"a" * 20
        layer.fill()
        with pytest.raises(DigestMismatch, match="the file has sha256"):
            layer.content.result(TIMEOUT)
        with pytest.raises(DigestMismatch):
            read(layer, b"\x11" * 32, 10, 20)
        assert not (site.layout.object(b"\x11" * 32)).exists()


# -- registries that lie about what no chunk's digest covers


def test_wrong_bytes_beside_the_files_are_found_out_and_fetched_again(site: Site, expect_log: Expect) -> None:
    sample = estargz([file("a", noise(3000, 1)), file("b", noise(3000, 2))])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = filled(site, registry, sample)
        assert layer.rest is not None
        layer.rest.clear()
        for number in range(layer.index.units):
            layer.rest.add(number, b"wrong")
        expect_log("come wrong, and were fetched again")
        check_finished(site, sample, site.sealer.seal(layer), layer)


def test_a_registry_that_has_another_blob_under_the_digest(site: Site, expect_log: Expect) -> None:
    expect_log("sha256:")
    sample = estargz([file("a", noise(3000, 1)), file("b", noise(3000, 2))])
    with FaultyRegistry(blobs_of(sample)) as registry:
        layer = filled(site, registry, sample)
        assert layer.rest is not None
        layer.rest.clear()
        for number in range(layer.index.units):
            layer.rest.add(number, b"wrong")

        def fault(answer: Answer) -> None:
            answer.body = answer.body[:-60] + bytes(60) if answer.end == len(sample.blob) else answer.body

        registry.fault = fault
        with pytest.raises(RegistryError, match="other bytes under this digest"):
            site.sealer.seal(layer)
        assert layer.refused is None
        registry.fault = None
        check_finished(site, sample, site.sealer.seal(layer), layer)
