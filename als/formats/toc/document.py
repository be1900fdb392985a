"""A JSON object with one long array, read while it is decompressed.

The table of contents of a million files is 400 MB of JSON, and several GB as Python objects. So the text passes through a
window, and the array's elements come out one by one. What :mod:`als.model.document` refuses is refused here too: fields given
twice, numbers that are none, deep nesting, text that is no UTF-8.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import NoReturn

from als.errors import BadImage, LimitExceeded

_SPACE = re.compile(r"[ \t\n\r]*")
_LEAST = 1 << 16
"""Characters to have before another try to read a value that the window ends within."""


class ArrayDocument:
    """Reads one document; used once.

    :param pieces: the UTF-8 text.
    :param array: name of the field whose elements :meth:`elements` gives; each must be an object.
    :param value_max: characters of the longest value, an element of the array or another field's whole.
    """

    def __init__(self, pieces: Iterator[bytes], array: str, value_max: int) -> None:
        self._pieces = pieces
        self._array = array
        self._value_max = value_max
        self._utf8 = codecs.getincrementaldecoder("utf-8")("strict")
        self._decode = json.JSONDecoder(object_pairs_hook=unique, parse_constant=_no_constant).raw_decode
        self._text = ""
        self._at = 0
        self._ended = False
        self.fields: dict[str, object] = {}
        """The other fields, as far as they have been read: all of them once the elements are exhausted."""

    def elements(self) -> Iterator[dict[str, object]]:
        """The elements of the array; the whole document has been read when they end.

        :raises BadImage: the document is malformed.
        :raises LimitExceeded: a value is too long.
        """
        seen = False
        self._expect("{")
        separator = "" if self._peek() != "}" else self._expect("}")
        while separator != "}":
            name = self._value()
            if not isinstance(name, str):
                _fail("a field's name is no string")
            self._expect(":")
            if name in self.fields or (seen and name == self._array):
                _fail("a field is given twice")
            if name != self._array:
                self.fields[name] = self._value()
            else:
                seen = True
                yield from self._elements()
            separator = self._expect(",}")
        if self._peek():
            _fail("something follows the document")

    def _elements(self) -> Iterator[dict[str, object]]:
        if self._peek() != "[":
            if self._value() is not None:
                _fail(f"the field {self._array!r} is not an array")
            return
        self._expect("[")
        if self._peek() == "]":
            self._expect("]")
            return
        while True:
            element = self._value()
            if not isinstance(element, dict):
                _fail(f"an element of {self._array!r} is not an object")
            yield element
            # As a writer puts it, without a space before the comma; whatever else there is takes the long way.
            if self._text.startswith(",", self._at):
                self._at += 1
            elif self._expect(",]") == "]":
                return

    def _peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _expect(self, characters: str) -> str:
        found = self._peek()
        if not found or found not in characters:
            _fail(f"{found!r} where one of {characters!r} should be" if found else "it ends too early")
        self._at += 1
        return found

    def _value(self) -> object:
        if not self._text.startswith("{", self._at):
            self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except ValueError as error:
                if not self._more():
                    _fail(str(error)[:200])
                continue
            except RecursionError:
                _fail("it is nested too deeply")
            # A number at the end of the window may go on.
            if end < len(self._text) or not self._more():
                if end - self._at > self._value_max:
                    raise self._too_long()
                self._at = end
                return value

    def _more(self) -> bool:
        """Twice as much of the text as is left in the window, so that the tries to read a long value cost as much as it."""
        left = len(self._text) - self._at
        if self._ended:
            return False
        if left > self._value_max:
            raise self._too_long()
        found = [self._text[self._at :]]
        wanted = max(left, _LEAST)
        while wanted > 0 and not self._ended:
            piece = next(self._pieces, None)
            self._ended = piece is None
            try:
                found.append(self._utf8.decode(piece or b"", final=self._ended))
            except UnicodeDecodeError as error:
                raise BadImage("it is no UTF-8", where="table of contents") from error
            wanted -= len(found[-1])
        self._text, self._at = "".join(found), 0
        return len(self._text) > left

    def _too_long(self) -> LimitExceeded:
        return LimitExceeded(f"a value has more than {self._value_max} characters", where="table of contents")


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, for ``object_pairs_hook``.

    :raises BadImage: a field is given twice.
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        _fail("a field is given twice")
    return result


def _no_constant(name: str) -> NoReturn:
    _fail(f"{name} is not JSON")


def _fail(what: str) -> NoReturn:
    raise BadImage(f"not a JSON document: {what}", where="table of contents")
