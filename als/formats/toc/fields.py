"""The fields of one entry of the table of contents, with their types checked.

``null`` counts as absent, as it does for the clients, which are written in Go. They also take a field in any case for the
one they know, so one that is written otherwise is refused: it would have two values for two readers.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_hex
from collections.abc import Sequence
from datetime import date

from als.errors import BadImage
from als.model.paths import show

Raw = dict[str, object]

_KNOWN = frozenset(
    (
        *("type", "name", "linkName", "mode", "size", "uid", "gid", "userName", "groupName", "modtime", "accesstime"),
        *("changetime", "devMajor", "devMinor", "xattrs", "digest", "offset", "innerOffset", "endOffset"),
        *("chunkSize", "chunkOffset", "chunkDigest", "chunkType"),
    )
)
_FOLDED = frozenset(name.casefold() for name in _KNOWN)
MAX_NUMBER = (1 << 63) - 1
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,100}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
_EPOCH = date(1970, 1, 1).toordinal()
_ZERO_TIME = "0001-01-01T00:00:00Z"
"""Go's ``time.Time{}``: no time is known (containers/storage, ``ensureTimePointersMatch``, takes it for the epoch)."""


def check_spelling(raw: Raw) -> None:
    """Refuse known fields in another spelling.

    :raises BadImage: there is one.
    """
    if not _KNOWN.issuperset(raw):
        for name in raw:
            if name not in _KNOWN and name.casefold() in _FOLDED:
                raise BadImage(f"the field {name[:40]!r} is written in another case than it should be", where=where_of(raw))


def text(raw: Raw, name: str) -> bytes:
    """A string; empty where it is absent.

    :raises BadImage: it is none, or has no UTF-8 form.
    """
    value = raw.get(name)
    if value is None:
        return b""
    if not isinstance(value, str):
        raise _wrong(raw, name, "is not a string")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise _wrong(raw, name, "has no UTF-8 form") from error


def integer(raw: Raw, name: str) -> int:
    """A number from 0 to 2^63-1; 0 where it is absent.

    :raises BadImage: it is none.
    """
    value = raw.get(name, 0)
    if type(value) is int and 0 <= value <= MAX_NUMBER:
        return value
    if value is None:
        return 0
    raise _wrong(raw, name, "is not a number in range")


def integers(raw: Raw, names: Sequence[str]) -> list[int]:
    """Several numbers of the same kind."""
    found: list[int] = []
    for value in map(raw.get, names):
        if value is None:
            found.append(0)
        elif type(value) is int and 0 <= value <= MAX_NUMBER:
            found.append(value)
        else:
            # Finds the field, for the message.
            return [integer(raw, name) for name in names]
    return found


def digest(raw: Raw, name: str) -> bytes | None:
    """The 32 bytes of a sha256; None where it is absent.

    :raises BadImage: it is another digest, or none.
    """
    value = raw.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.startswith("sha256:"):
        try:
            found = a2b_hex(value[7:])
        except ValueError:
            found = b""
        if len(found) == 32 and found.hex() == value[7:]:
            return found
    raise _wrong(raw, name, "is not a sha256 digest")


def xattrs(raw: Raw) -> tuple[tuple[bytes, bytes], ...]:
    """The field ``xattrs``: names and their values in base64.

    :raises BadImage: it is not that.
    """
    values = raw.get("xattrs")
    if not values:
        return ()
    if not isinstance(values, dict):
        raise _wrong(raw, "xattrs", "is not an object")
    found: list[tuple[bytes, bytes]] = []
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            raise _wrong(raw, "xattrs", "has a value that is not a string")
        try:
            found.append((name.encode(), a2b_base64(value or "", strict_mode=True)))
        except (Base64Error, ValueError) as error:
            raise _wrong(raw, "xattrs", "has a value that is not base64") from error
    return tuple(found)


class Times:
    """Reads times; a layer has few different ones, so those met before are remembered."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[int, int]] = {None: (0, 0), "": (0, 0), _ZERO_TIME: (0, 0)}

    def of(self, every: Sequence[Raw], name: str) -> list[tuple[int, int]]:
        """The same time of several entries, as :meth:`read` has it of one."""
        values = [raw.get(name) for raw in every]
        try:
            return [self._known[value] for value in values]
        except (KeyError, TypeError):
            return [self.read(raw, name) for raw in every]

    def read(self, raw: Raw, name: str) -> tuple[int, int]:
        """An RFC 3339 time as (seconds since the epoch, nanoseconds); the epoch where it is absent.

        :raises BadImage: it is none.
        """
        value = raw.get(name)
        if value is None:
            return 0, 0
        if not isinstance(value, str):
            raise _wrong(raw, name, "is not a string")
        found = self._known.get(value)
        if found is None:
            found = _time(value)
            if found is None:
                raise _wrong(raw, name, "is not a time")
            if len(self._known) < 10_000:
                self._known[value] = found
        return found


def _time(value: str) -> tuple[int, int] | None:
    match = _TIME.fullmatch(value)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    zone = (int(match[9]) * 60 + int(match[10])) * 60 if match[8] else 0
    if hour > 23 or minute > 59 or second > 59:
        return None
    try:
        days = date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        return None
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - (-zone if match[8] == "-" else zone)
    return seconds, int((match[7] or "")[:9].ljust(9, "0"))


def where_of(raw: Raw) -> str:
    """The entry's name, for a message."""
    name = raw.get("name")
    return show(name.encode("utf-8", "backslashreplace")) if isinstance(name, str) else "table of contents"


def _wrong(raw: Raw, name: str, what: str) -> BadImage:
    return BadImage(f"the field {name!r} {what}", where=where_of(raw))
