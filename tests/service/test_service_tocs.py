"""An image that claims another one's table of contents gets, and spoils, nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.errors import BadImage, NotFound
from als.fuse.layers import StoreBackend
from als.model.digest import Digest
from als.model.manifest import ZSTD_CHUNKED_TOC, toc_digest
from als.model.reference import parse_reference
from als.service import Service
from als.service.contents import file_content
from als.service.recovery import recover
from als.service.removal import collect
from als.service.repair import fsck
from als.store.images import ImageRecord
from tests.fetch.toclayers import FLAVOURS, finish, layer_of, writer_of
from tests.formats.lazylayers import LazyLayer
from tests.formats.tocbuilder import document_of
from tests.harness.gated import GatedRegistry
from tests.harness.ocilayout import LayerBlob, Layout, TarBuilder
from tests.harness.policy import ExpectedLogs

GOOD, EVIL = b"good" * 600, b"evil" * 600
NOT_SERVED = "is not served by its table of contents"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose policy takes any image."""
    folder = tmp_path / "home" / ".config" / "containers"
    folder.mkdir(parents=True)
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def registry(layout: Layout) -> Iterator[GatedRegistry]:
    with GatedRegistry(layout) as server:
        yield server


def blob_of(layout: Layout, layer: LazyLayer, annotations: dict[str, str] | None = None) -> LayerBlob:
    digest, size = layout.add_blob(layer.blob)
    stated = dict(layer.descriptor.annotations) if annotations is None else annotations
    return LayerBlob(digest, size, layer.diff_id, layer.descriptor.media_type, stated)


def pulled(service: Service, layout: Layout, tag: str, *blobs: LayerBlob, asked: bool = False) -> ImageRecord:
    layout.add_image(tag, blobs)
    return service.pull(parse_reference(layout.name(tag)), asked=asked)


def by_toc(service: Service) -> set[str]:
    """The chains that are listed because of a TOC."""
    return {chain for chain in service.composefs.published() if service.composefs.home(chain) != chain}


def forged(flavour: str) -> LazyLayer:
    """Evil content with the honest image's table of contents, which the honest annotation commits to."""
    return finish(flavour, writer_of(flavour, EVIL), document_of(writer_of(flavour, GOOD).rows))


@pytest.mark.parametrize("flavour", ["estargz", "podman", "stargz zstd"])
def test_a_verified_table_is_a_name_of_its_layer(service: Service, layout: Layout, flavour: str) -> None:
    layer = layer_of(flavour, GOOD)
    plain = layout.add_layer(TarBuilder().file("file", b"plain").build())
    image = pulled(service, layout, "one", blob_of(layout, layer), plain)
    toc = toc_digest(image.manifest.layers[0])
    assert toc is not None
    assert service.layers.get(image.config.diff_ids[0]).tocs == (toc,)
    assert by_toc(service) == set(image.toc_chain)
    assert service.layer_of(image, 0).info()["toc-digest"] == str(toc)
    assert service.composefs.published()[image.toc_chain[0]]["diff-digest"] == layer.diff_id
    assert fsck(service, deep=True).found == ()


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
def test_poisoning(service: Service, layout: Layout, flavour: str, home: None, expect_log: ExpectedLogs) -> None:
    """The liar comes first, then the image whose table of contents he claims."""
    expect_log(NOT_SERVED)
    liar = pulled(service, layout, "liar", blob_of(layout, forged(flavour)), asked=True)
    assert by_toc(service) == set()
    assert set(liar.chain) <= service.composefs.published().keys(), "by DiffID it is what it is"
    honest = pulled(service, layout, "honest", blob_of(layout, layer_of(flavour, GOOD)), asked=True)
    toc = toc_digest(honest.manifest.layers[0])
    assert toc is not None and toc == toc_digest(liar.manifest.layers[0])
    assert by_toc(service) == set(honest.toc_chain) == set(liar.toc_chain)
    entry = service.composefs.published()[honest.toc_chain[0]]
    assert entry["diff-digest"] == str(honest.config.diff_ids[0])
    assert b"".join(file_content(service, honest, "/d/a")) == GOOD
    listed = json.loads(service.composefs.images.list_file.read_bytes())
    assert {image["layer"] for image in listed} == {liar.chain[0], honest.toc_chain[0]}
    with pytest.raises(NotFound):
        service.serve_layer("h/liar:1", toc, liar, 0)
    served = service.serve_layer("h/honest:1", toc, honest, 0)
    assert served.diff_id == honest.config.diff_ids[0]
    assert service.serve_layer("h/liar:1", liar.manifest.layers[0].digest, liar, 0).diff_id == liar.config.diff_ids[0]
    recover(service)
    collect(service)
    assert by_toc(service) == set(honest.toc_chain)
    assert fsck(service, deep=True).found == ()


def test_lookups_as_clients_make_them(
    service: Service,
    layout: Layout,
    registry: GatedRegistry,
    expect_log: ExpectedLogs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    expect_log(NOT_SERVED)
    conf = tmp_path / "registries.conf"
    conf.write_text(f'[[registry]]\nlocation = "{registry.address}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    evil, good = forged("podman"), layer_of("podman", GOOD)
    toc = evil.descriptor.annotations[ZSTD_CHUNKED_TOC]
    layout.add_image("liar", [blob_of(layout, evil)])
    layout.add_image("honest", [blob_of(layout, good)])
    with Service(service.config) as fresh:
        backend = StoreBackend(fresh)
        liar, honest = f"{registry.address}/any/x:liar", f"{registry.address}/any/x:honest"
        for _ in range(2):
            with pytest.raises(NotFound, match="table of contents"):
                backend.lookup(liar, toc)
        by_blob = backend.lookup(liar, str(evil.descriptor.digest))
        assert by_blob is not None and json.loads(by_blob.info)["diff-digest"] == evil.diff_id
        assert "toc-digest" not in json.loads(by_blob.info)
        found = backend.lookup(honest, toc)
        assert found is not None
        assert json.loads(found.info)["toc-digest"] == toc
        assert json.loads(found.info)["diff-digest"] == good.diff_id


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_layer_that_is_here_already(
    service: Service, layout: Layout, flavour: str, caplog: pytest.LogCaptureFixture, expect_log: ExpectedLogs
) -> None:
    """Its table is read when an image first names it, and again after it could not be read."""
    expect_log(NOT_SERVED)
    layer = layer_of(flavour, GOOD)
    if flavour == "external":
        # In a layout there is no other image by that tag, so it cannot be read.
        image = pulled(service, layout, "one", blob_of(layout, layer))
        assert service.layers.get(image.config.diff_ids[0]).tocs == () and by_toc(service) == set()
        return
    pulled(service, layout, "plain", blob_of(layout, layer, {}))
    assert by_toc(service) == set()
    wrong = {
        key: f"sha256:{7:064}" if key.endswith(("digest", "checksum")) else value
        for key, value in layer.descriptor.annotations.items()
    }
    first = pulled(service, layout, "wrong", blob_of(layout, layer, wrong))
    assert by_toc(service) == set()
    assert service.layers.get(first.config.diff_ids[0]).tocs == ()
    with caplog.at_level(logging.WARNING, "als"):
        caplog.clear()
        image = pulled(service, layout, "right", blob_of(layout, layer))
        assert caplog.text == ""
    assert service.layers.get(image.config.diff_ids[0]).tocs == (toc_digest(image.manifest.layers[0]),)
    assert by_toc(service) == set(image.toc_chain)


def test_the_warning_names_all_there_is(
    service: Service, layout: Layout, caplog: pytest.LogCaptureFixture, expect_log: ExpectedLogs
) -> None:
    expect_log(NOT_SERVED)
    with caplog.at_level(logging.WARNING, "als"):
        layer = forged("podman")
        pulled(service, layout, "liar", blob_of(layout, layer))
    (record,) = caplog.records
    text = record.getMessage()
    for word in (layout.name("liar"), layer.descriptor.annotations[ZSTD_CHUNKED_TOC], "d/a: another content"):
        assert word in text


def test_two_kinds_of_annotation_at_once(service: Service, layout: Layout) -> None:
    layer = layer_of("podman", GOOD)
    annotations = {**layer.descriptor.annotations, "containerd.io/snapshot/stargz/toc.digest": str(Digest.of(b""))}
    with pytest.raises(BadImage, match="annotated both"):
        pulled(service, layout, "both", blob_of(layout, layer, annotations))


def test_one_table_for_two_streams(service: Service, layout: Layout) -> None:
    """What differs in the archive alone is the same to see: both layers are found, and neither takes the other with it."""
    one = layer_of("podman", GOOD)
    made = writer_of("podman", GOOD)
    made.write(bytes(512))
    two = finish("podman", made, document_of(writer_of("podman", GOOD).rows))
    assert one.diff_id != two.diff_id
    first = pulled(service, layout, "first", blob_of(layout, one))
    second = pulled(service, layout, "second", blob_of(layout, two))
    assert first.toc_chain == second.toc_chain and by_toc(service) == set(first.toc_chain)
    service.images.forget(layout.name("first"))
    collect(service)
    assert by_toc(service) == set(second.toc_chain)
    assert fsck(service, deep=True).found == ()
