"""The text of a table of contents: in pieces, and its times."""

from __future__ import annotations

import itertools
import json

import pytest

from als.errors import BadImage, LimitExceeded
from als.formats.toc.document import ArrayDocument, unique
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
        assert list(itertools.chain.from_iterable(document.batches())) == entries
        assert document.fields == {"a": 12, "b": [1, 2], "c": "last"}


ODD = (
    '{"a":1},{"a":2}',
    '{"a":1} ,\n\t{"a":2}',
    '{"a":"},{"},{"a":"}"}',
    '{"a":"x\\"},{\\""},{"a":2}',
    '{"a":{"b":1},"c":{}},{"a":2}',
    '{"a":[{"b":1},{"b":2}]},{"a":2}',
    '{"a":[1,2],"b":[[]]},{"a":null}',
    "{},{},{}",
    '{"a":1,"a":2},{"a":3}',
    '{"a":{"b":1,"b":2}},{"a":3}',
    '{"a":NaN},{"a":3}',
    '{"a":1}],[{"a":2}',
    '{"a":1},[],{"a":2}',
    '{"a":1},7,{"a":2}',
    '{"a":1},,{"a":2}',
    '{"a":1},{"a":2},',
    ',{"a":1},{"a":2}',
    '{"a":1},{"a":2',
    '{"a":1},{"a" 2},{"a":3}',
    '{"a":1},"},{",{"a":2}',
    '{"a":1e400},{"a":-1.5e3},{"a":12345678901234567890123}',
    '{"a":"\\ud800"},{"a":"\\u007b"}',
    '{"' + "k" * 90 + '":1},{"a":2}',
    '{"a":' + "9" * 5000 + '},{"a":2}',
    '{"a":' + "[" * 3000 + "]" * 3000 + '},{"a":2}',
)


def outcome(text: str, piece: int) -> list[dict[str, object]] | str:
    """Of the elements of an array of three copies of some, or the error."""
    data = f'{{"x":1,"entries":[{",".join((text,) * 3)}]}}'.encode("utf-8", "surrogatepass")
    document = ArrayDocument((data[start : start + piece] for start in range(0, len(data), piece)), "entries", 80)
    try:
        return [element for batch in document.batches() for element in batch]
    except (BadImage, LimitExceeded) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("piece", [7, 40, 100_000])
def test_together_elements_are_what_they_are_alone(text: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    together = outcome(text, piece)
    monkeypatch.setattr("als.formats.toc.document._MANY", 0)
    assert together == outcome(text, piece)
    try:
        expected = json.loads(f"[{text}]", object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError, BadImage):
        assert isinstance(together, str)
    else:
        fits = all(isinstance(each, dict) and len(json.dumps(each, separators=(",", ":"))) <= 80 for each in expected)
        assert together == expected * 3 if fits else isinstance(together, str)


def refuse(name: str) -> None:
    raise ValueError(name)


def test_elements_are_read_together() -> None:
    text = json.dumps({"entries": [{"number": number} for number in range(9000)]}, separators=(",", ":")).encode()
    sizes = [len(batch) for batch in ArrayDocument(iter([text]), "entries", 1 << 20).batches()]
    assert sum(sizes) == 9000
    assert len(sizes) < 6
