"""What an entry of layers.json states, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from als.errors import StoreDamaged
from als.imagestore.records import PublishedLayer, is_lazy
from als.model.digest import Digest
from als.model.manifest import LayerCompression
from tests.imagestore.shop import Shop

DIFF_ID, BLOB, TOC = Digest.of(b"stream"), Digest.of(b"blob"), Digest.of(b"toc")
WHOLE = PublishedLayer("c" * 64, "p" * 64, DIFF_ID, 10_240, BLOB, 512, LayerCompression.GZIP, 1.7e9, TOC, (0, 1), (0,))
LAZY = replace(WHOLE, blob=None, diff_size=-1, lazy="key")
CLAIMS = {"diff-digest", "compressed-diff-digest", "compressed-size"}


def test_a_layer_known_by_its_blob() -> None:
    assert WHOLE.to_json().keys() >= CLAIMS
    assert PublishedLayer.from_json(WHOLE.to_json()) == WHOLE
    assert not is_lazy(WHOLE.to_json())


def test_a_blob_that_was_not_verified_is_not_named() -> None:
    layer = replace(WHOLE, blob=None)
    entry = layer.to_json()
    assert entry.keys() & CLAIMS == {"diff-digest"}
    assert str(BLOB) not in str(layer.info())
    assert entry == {key: value for key, value in WHOLE.to_json().items() if not key.startswith("compressed")}
    assert PublishedLayer.from_json(entry) == replace(layer, blob_size=0)


@pytest.mark.parametrize("blob", [None, BLOB])
def test_a_lazy_layer_states_its_table_of_contents_only(blob: Digest | None) -> None:
    """Its DiffID is what the image's config says; clients need it, as a promise, to save and push."""
    layer = replace(LAZY, blob=blob)
    entry = layer.to_json()
    assert entry.keys() & CLAIMS == set() and is_lazy(entry)
    assert layer.info() == {
        "toc-digest": str(TOC),
        "flags": {"expected-layer-diffid": str(DIFF_ID)},
        "diff-size": -1,
        "compression": 2,
    }
    assert PublishedLayer.from_json(entry) == replace(LAZY, lazy="", blob_size=0)


def test_a_blob_is_added_once_it_is_known() -> None:
    unknown = replace(WHOLE, blob=None).to_json()
    assert WHOLE.restated(unknown) == WHOLE.to_json()
    other = replace(WHOLE, blob=Digest.of(b"other"), created=1.0)
    assert other.restated(WHOLE.to_json()) == WHOLE.to_json()
    assert replace(WHOLE, blob=None).restated(WHOLE.to_json()) == WHOLE.to_json()
    assert WHOLE.restated(LAZY.to_json()) == LAZY.to_json()


@pytest.mark.parametrize("gone", ["id", "diff-digest", "diff-size", "compressed-size", "created"])
def test_an_incomplete_entry(gone: str) -> None:
    entry = {key: value for key, value in WHOLE.to_json().items() if key not in (gone, "toc-digest")}
    with pytest.raises(StoreDamaged, match="incomplete entry"):
        PublishedLayer.from_json(entry)


@pytest.mark.usefixtures("as_root")
def test_publishing_again_adds_the_blob(shop: Shop) -> None:
    low = shop.layer(b"low" * 100)
    top = shop.layer(b"top" * 100, low.chain_id)
    for store in shop.stores:
        store.publish([low, replace(top, blob=None)])
        before = store.published()
        assert "compressed-diff-digest" in before[low.chain_id]
        assert "compressed-diff-digest" not in before[top.chain_id]
        store.publish([replace(low, blob=Digest.of(b"another")), top])
        after = store.published()
        assert after[top.chain_id] == {**before[top.chain_id], "compressed-diff-digest": str(top.blob), "compressed-size": 512}
        assert after[low.chain_id] == before[low.chain_id], "one is enough"
        assert shop.faults(store) == []
