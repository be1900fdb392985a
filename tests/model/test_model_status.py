"""What images are told to be, and how it travels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from als.model.digest import Digest
from als.model.status import ImageStatus, LayerStatus, LinkStatus, State, percent, state_of

BLOB = Digest.of(b"blob")
DIFF_ID = Digest.of(b"diff")


def layer(state: State, here: int | None = None, of: int | None = None) -> LayerStatus:
    return LayerStatus(BLOB, DIFF_ID, "estargz", state, of, here)


@pytest.mark.parametrize(
    ("layers", "state"),
    [
        ([], State.SEALED),
        ([State.SEALED, State.SEALED], State.SEALED),
        ([State.SEALED, State.COMPLETE], State.COMPLETE),
        ([State.COMPLETE], State.COMPLETE),
        ([State.LISTED, State.LISTED], State.LISTED),
        ([State.LISTED, State.SEALED], State.LAZY),
        ([State.LISTED, State.COMPLETE], State.LAZY),
        ([State.LAZY, State.SEALED], State.LAZY),
        ([State.MISSING, State.LAZY], State.INCOMPLETE),
        ([State.MISSING, State.SEALED], State.INCOMPLETE),
        ([State.SEALED, State.REFUSED, State.MISSING], State.REFUSED),
    ],
)
def test_an_image_is_as_far_as_its_layers(layers: list[State], state: State) -> None:
    assert state_of([layer(each) for each in layers]) is state


def test_hundred_percent_is_all() -> None:
    assert [percent(0, 10), percent(999_999, 1_000_000), percent(10, 10), percent(0, 0)] == [0, 99, 100, 100]
    image = ImageStatus(BLOB, (), (layer(State.SEALED, 60, 60), layer(State.LAZY, 15, 40)))
    assert (image.sizes, image.percent, image.name) == ((75, 100), 75, str(BLOB))
    assert [each.percent for each in image.layers] == [100, 37]
    unknown = ImageStatus(BLOB, ("a", "b"), (layer(State.SEALED, 60, 60), layer(State.LAZY)))
    assert (unknown.sizes, unknown.percent, unknown.name) == (None, None, "a")
    assert unknown.lazy_layers == unknown.layers[1:]


FULL = LayerStatus(
    BLOB, DIFF_ID, "zstd:chunked", State.LAZY, 100, 50, 9, 3, 77, 1.5, "host:5000", True, "no answer", 1234.5
)  # fmt: skip
IMAGE = ImageStatus(BLOB, ("a:1", "b:2"), (FULL, layer(State.MISSING)))
LINK = LinkStatus("host", 0.02, 2.5e7, 1, 3, 5, 0.25)


def there(value: object) -> Any:
    return json.loads(json.dumps(value))


def test_it_is_the_same_on_the_other_side() -> None:
    assert ImageStatus.from_json(there(IMAGE.to_json())) == IMAGE
    assert LinkStatus.from_json(there(LINK.to_json())) == LINK
    assert (IMAGE.to_json()["state"], IMAGE.to_json()["percent"]) == ("incomplete", None)


@pytest.mark.parametrize("change", [{"state": "melted"}, {"digest": "x"}, {"diff_id": 7}, {"files": ...}])
def test_what_is_no_status(change: dict[str, Any]) -> None:
    changed = {name: value for name, value in (there(FULL.to_json()) | change).items() if value is not ...}
    with pytest.raises(ValueError, match="not the status of a layer"):
        LayerStatus.from_json(changed)


def test_what_is_no_status_of_an_image_or_link() -> None:
    for changed in ({}, there(IMAGE.to_json()) | {"layers": None}, there(IMAGE.to_json()) | {"digest": None}):
        with pytest.raises(ValueError, match="not the status of an image"):
            ImageStatus.from_json(changed)
    with pytest.raises(ValueError, match="not the status of a link"):
        LinkStatus.from_json({"host": "x"})
