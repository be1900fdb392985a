"""An image that claims another one's table of contents gets, and spoils, nothing."""

from __future__ import annotations

from als.model.digest import Digest
from als.model.reference import parse_reference
from als.service import Service
from als.service.repair import fsck
from als.store.images import ImageRecord
from tests.harness.ocilayout import LayerBlob, Layout, TarBuilder
from tests.harness.policy import ExpectedLogs

TOC = "containerd.io/snapshot/stargz/toc.digest"


def image(service: Service, layout: Layout, tag: str, *layers: tuple[str, str]) -> ImageRecord:
    """An image of layers with a content and a TOC each, pulled."""
    blobs = []
    for content, toc in layers:
        blob = layout.add_layer(TarBuilder().file("file", content.encode() * 500).build())
        annotations = {TOC: str(Digest.of(toc.encode()))} if toc else {}
        blobs.append(LayerBlob(blob.digest, blob.size, blob.diff_id, blob.media_type, annotations))
    layout.add_image(tag, blobs)
    return service.pull(parse_reference(layout.name(tag)))


def by_toc(service: Service) -> set[str]:
    """The chains that are listed because of a TOC."""
    return {chain for chain in service.composefs.published() if service.composefs.home(chain) != chain}


def test_one_content_has_one_toc(service: Service, layout: Layout) -> None:
    first = image(service, layout, "one", ("low", "t-low"), ("top", "t-top"))
    second = image(service, layout, "two", ("low", "t-low"), ("other", "t-other"))
    assert by_toc(service) == {*first.toc_chain, *second.toc_chain}
    assert service.refusal(second, Digest.of(b"t-low")) == ""
    assert service.layer_of(first, 1).info()["toc-digest"] == str(Digest.of(b"t-top"))


def test_what_two_contents_claim_neither_gets(service: Service, layout: Layout, expect_log: ExpectedLogs) -> None:
    expect_log("no longer found by their tables of contents")
    liar = image(service, layout, "liar", ("evil", "t-low"), ("evil top", "t-evil"))
    assert by_toc(service) == set(liar.toc_chain)
    honest = image(service, layout, "honest", ("low", "t-low"), ("top", "t-top"))
    assert not by_toc(service) & set(liar.toc_chain)
    assert honest.toc_chain[0] not in service.composefs.published()
    assert set(honest.chain) | set(liar.chain) <= service.composefs.published().keys(), "by DiffID both are what they are"
    for each in (honest, liar):
        assert "claimed for another layer" in service.refusal(each, Digest.of(b"t-low"))
    service.recover()
    assert not {honest.toc_chain[0], liar.toc_chain[0]} & service.composefs.published().keys()
    assert fsck(service, deep=True).found == ()


def test_one_image_that_contradicts_itself(service: Service, layout: Layout) -> None:
    odd = image(service, layout, "odd", ("one", "same"), ("two", "same"))
    assert by_toc(service) == set()
    assert set(odd.chain) <= service.composefs.published().keys()
