"""The text of a table of contents: in pieces, and its times."""

from __future__ import annotations

import json

import pytest

from als.formats.toc.document import ArrayDocument
from als.formats.toc.fields import Times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", (0, 0)),
        ("0001-01-01T00:00:00Z", (0, 0)),
        ("2024-03-09T16:00:02.999999999Z", (1710000002, 999_999_999)),
        ("2024-03-09T16:00:02.5+01:30", (1709994602, 500_000_000)),
        ("2024-03-09T16:00:02-01:30", (1710005402, 0)),
        ("1969-12-31T23:59:59.25Z", (-1, 250_000_000)),
        ("9999-12-31T23:59:59Z", (253402300799, 0)),
        ("2024-03-09T16:00:02.1234567891Z", (1710000002, 123_456_789)),
    ],
)
def test_times(text: str, expected: tuple[int, int]) -> None:
    times = Times()
    assert times.read({"modtime": text}, "modtime") == expected
    assert times.read({"modtime": text}, "modtime") == expected
    assert times.read({}, "modtime") == (0, 0)


def test_documents_in_pieces_of_any_size() -> None:
    entries = [{"name": "ä" * number, "value": number * 1.5, "more": [None, {"x": '\\"]}'}]} for number in range(60)]
    text = json.dumps({"a": 12, "entries": entries, "b": [1, 2], "c": "last"}, ensure_ascii=False, indent=1).encode()
    for size in (1, 2, 3, 64, 100_000):
        document = ArrayDocument((text[start : start + size] for start in range(0, len(text), size)), "entries", 1 << 20)
        assert list(document.elements()) == entries
        assert document.fields == {"a": 12, "b": [1, 2], "c": "last"}
