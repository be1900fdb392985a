"""Reading JSON documents that may be hostile: typed access to fields, one error for everything that is wrong.

Refused beyond what JSON itself forbids: fields given twice (two readers would disagree about which one counts), numbers
that are no finite JSON numbers, text that has no UTF-8 form, and nesting that exhausts the decoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn

from als.errors import BadImage, LimitExceeded

INTEGER_MAX = 2**63 - 1


def parse_object(data: bytes, *, what: str, limit: int) -> Fields:
    """The JSON object that `data` is.

    :param what: what the document is called in errors.
    :param limit: bytes it may have.
    :raises BadImage: it is not well-formed.
    :raises LimitExceeded: it is larger than `limit`.
    """
    if len(data) > limit:
        raise LimitExceeded(f"{len(data)} bytes where {limit} are allowed", where=what)
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadImage(f"not a JSON document: {str(error)[:200]}", where=what) from error
    if not isinstance(value, dict):
        raise BadImage("not a JSON object", where=what)
    return Fields(value, what)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a field is given twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class Fields:
    """One JSON object; every accessor raises :class:`als.errors.BadImage` naming the field that is missing or wrong.

    ``null`` counts as absent, as it does for the clients.
    """

    def __init__(self, values: dict[str, object], where: str) -> None:
        self._values = values
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def names(self) -> tuple[str, ...]:
        """Every field that is there."""
        return tuple(self._values)

    def text(self, name: str, default: str | None = None) -> str:
        """A string field."""
        return self._text(self._get(name, default), name)

    def integer(self, name: str, default: int | None = None) -> int:
        """A field that counts something: an integer from 0 to 2^63-1."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INTEGER_MAX:
            self._fail(name, "is not a number in range")
        return value

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """A true or false field."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            self._fail(name, "is not true or false")
        return value

    def child(self, name: str) -> Fields:
        """A field that is an object itself."""
        return self._object(self._get(name, None), name)

    def optional_child(self, name: str) -> Fields | None:
        """The same, or None where it is absent."""
        return self.child(name) if name in self else None

    def children(self, name: str, *, required: bool = True) -> tuple[Fields, ...]:
        """A field that is an array of objects."""
        return tuple(self._object(value, f"{name}[{i}]") for i, value in enumerate(self._array(name, required)))

    def texts(self, name: str, *, required: bool = True) -> tuple[str, ...]:
        """A field that is an array of strings."""
        return tuple(self._text(value, f"{name}[{i}]") for i, value in enumerate(self._array(name, required)))

    def text_map(self, name: str) -> Mapping[str, str]:
        """A field that maps strings to strings; empty where it is absent."""
        if name not in self:
            return MappingProxyType({})
        fields = self.child(name)
        return MappingProxyType({self._text(key, name): fields.text(key, "") for key in fields._values})

    def _get(self, name: str, default: object) -> object:
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            self._fail(name, "is missing")
        return value

    def _array(self, name: str, required: bool) -> list[object]:
        value = self._get(name, None if required else [])
        if not isinstance(value, list):
            self._fail(name, "is not an array")
        return value

    def _object(self, value: object, name: str) -> Fields:
        if not isinstance(value, dict):
            self._fail(name, "is not an object")
        return Fields(value, f"{self._where}: {name}")

    def _text(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            self._fail(name, "is not a string")
        try:
            value.encode()
        except UnicodeEncodeError:
            self._fail(name, "has no UTF-8 form")
        return value

    def _fail(self, name: str, what: str) -> NoReturn:
        raise BadImage(f"the field {name[:100]!r} {what}", where=self._where)
