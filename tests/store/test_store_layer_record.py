"""What is written down of a layer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from als.errors import StoreDamaged
from als.model.digest import Digest
from als.store.layers import LayerRecord

RECORD = LayerRecord(Digest.of(b"d"), 10_240, "tar", 2, 100, 1.5, (Digest.of(b"one"), Digest.of(b"two")), (Digest.of(b"gz"),))


def test_a_record_is_read_back() -> None:
    assert LayerRecord.from_json(json.loads(json.dumps(RECORD.to_json())), "here") == RECORD


def test_a_record_without_other_names_promises_none() -> None:
    value = RECORD.to_json()
    del value["tocs"], value["blobs"]
    record = LayerRecord.from_json(value, "here")
    assert (record.tocs, record.blobs) == ((), ())


def test_the_digest_of_a_sealed_layer_is_read_back() -> None:
    sealed = replace(RECORD, verity="0" * 64)
    assert LayerRecord.from_json(json.loads(json.dumps(sealed.to_json())), "here") == sealed


def test_a_record_from_before_layers_were_sealed() -> None:
    value = RECORD.to_json()
    del value["version"], value["verity"]
    assert LayerRecord.from_json(value, "here") == RECORD


def test_a_record_of_a_newer_als() -> None:
    with pytest.raises(StoreDamaged, match="of a newer als"):
        LayerRecord.from_json({**RECORD.to_json(), "version": 3}, "here")


def test_which_blobs_hold_a_layer() -> None:
    assert RECORD.is_held_by(Digest.of(b"gz"))
    assert RECORD.is_held_by(RECORD.diff_id), "an uncompressed blob is the stream"
    assert not RECORD.is_held_by(Digest.of(b"one"))


@pytest.mark.parametrize("field", ["tocs", "blobs"])
@pytest.mark.parametrize("digests", ["sha256:" + "0" * 64, [1], ["sha256:0"], None, {}])
def test_a_record_that_is_damaged(field: str, digests: object) -> None:
    with pytest.raises(StoreDamaged, match="incomplete layer record"):
        LayerRecord.from_json({**RECORD.to_json(), field: digests}, "here")
