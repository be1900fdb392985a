"""A JSON object with one long array, read while it is decompressed.

The table of contents of a million files is 400 MB of JSON, and several GB as Python objects. So the text passes through a
window, and the array's elements come out a batch at a time. What :mod:`als.model.document` refuses is refused here too:
fields given twice, numbers that are none, deep nesting, text that is no UTF-8.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import NoReturn

from als.errors import BadImage, LimitExceeded

_SPACE = re.compile(r"[ \t\n\r]*")
_Object = dict[str, object]
_LEAST = 1 << 16
"""Characters to have before another try to read a value that the window ends within."""
_MANY = 1 << 16
"""Characters of elements that are read together at most."""


class ArrayDocument:
    """Reads one document; used once.

    :param pieces: the UTF-8 text.
    :param array: name of the field whose elements :meth:`batches` gives; each must be an object.
    :param value_max: characters of the longest value, an element of the array or another field's whole.
    """

    def __init__(self, pieces: Iterator[bytes], array: str, value_max: int) -> None:
        self._pieces = pieces
        self._array = array
        self._value_max = value_max
        self._utf8 = codecs.getincrementaldecoder("utf-8")("strict")
        self._decode = json.JSONDecoder(object_pairs_hook=unique, parse_constant=_no_constant).raw_decode
        # Calls nothing of Python's own. A JSON array is a list, so that an object can be told by its type.
        self._decode_many = json.JSONDecoder(object_pairs_hook=tuple, parse_constant=_no_constant).raw_decode
        self._text = ""
        self._at = 0
        self._ended = False
        self._singly = 0
        """Up to here, elements cannot be read together."""
        self.fields: _Object = {}
        """The other fields, as far as they have been read: all of them once the elements are exhausted."""

    def batches(self) -> Iterator[list[_Object]]:
        """The elements of the array, some at a time; the whole document has been read when they end.

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

    def _elements(self) -> Iterator[list[_Object]]:
        if self._peek() != "[":
            if self._value() is not None:
                _fail(f"the field {self._array!r} is not an array")
            return
        self._expect("[")
        if self._peek() == "]":
            self._expect("]")
            return
        separator = ","
        while separator == ",":
            batch = self._many()
            if batch:
                yield batch
                continue
            element = self._value()
            if not isinstance(element, dict):
                _fail(f"an element of {self._array!r} is not an object")
            yield [element]
            separator = self._expect(",]")

    def _many(self) -> list[_Object]:
        """Some elements that the window has whole, and the comma behind the last one; none: the next one is to be read alone.

        One by one, each costs some calls. Where the last one ends is guessed: that is right if what is before it can be read,
        because of one text there is only one reading. What cannot, or has objects within objects, is left to those who read it
        one by one, and say what is wrong.
        """
        if self._at < self._singly:
            return []
        most = min(self._at + min(_MANY, self._value_max), len(self._text))
        end = self._text.rfind("},", self._at, most) + 1
        self._singly = end or most
        if not end:
            return []
        text = f"[{self._text[self._at : end]}]"
        try:
            pairs, read = self._decode_many(text)
        except (ValueError, RecursionError, BadImage):
            return []
        if read < len(text) or set(map(type, pairs)) != {tuple} or text.count("{") != len(pairs):
            return []
        found: list[_Object] = list(map(dict, pairs))
        if list(map(len, found)) != list(map(len, pairs)):
            return []
        self._at = end + 1
        return found

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
        self._text, self._at, self._singly = "".join(found), 0, max(0, self._singly - self._at)
        return len(self._text) > left

    def _too_long(self) -> LimitExceeded:
        return LimitExceeded(f"a value has more than {self._value_max} characters", where="table of contents")


def unique(pairs: list[tuple[str, object]]) -> _Object:
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
