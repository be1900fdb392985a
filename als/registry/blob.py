"""A blob, or a range of it, as a stream from a registry that may break off anywhere.

A stream that breaks is taken up again where it broke, by a range request, as long as it makes progress. Servers answer
range requests in many ways: with the range, with less of it, or with the whole blob (then what comes before is skipped).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import urllib3.exceptions

from als.errors import RegistryError, RegistryUnavailable
from als.registry.retry import pause_before
from als.registry.session import Answer
from als.registry.transport import Transport, discard

ACCEPTED = (200, 206, 416)
"""The statuses that :class:`RegistryBlob` knows what to do with."""
_PIECE = 1 << 18
_PROGRESS = 1 << 20
"""Bytes after which an interruption is forgotten."""
_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")


class ContentRange(NamedTuple):
    """What a ``Content-Range`` header says (RFC 9110, 14.4): first byte, byte after the last, and the whole size."""

    start: int | None
    end: int | None
    size: int | None


def parse_content_range(text: str | None) -> ContentRange | None:
    """None where the header is missing or malformed."""
    match = _CONTENT_RANGE.fullmatch((text or "").strip())
    if match is None:
        return None
    first, last, size = match.groups()
    whole = None if size == "*" else int(size)
    if first is None:
        return ContentRange(None, None, whole)
    start, end = int(first), int(last) + 1
    return ContentRange(start, end, whole) if start < end <= (end if whole is None else whole) else None


class RegistryBlob:
    """The stream; see :class:`als.registry.source.BlobStream`.

    :param request: makes the request with these headers, and returns an answer whose status is in `ACCEPTED`.
    :param offset: the first byte wanted.
    :param length: how many are wanted; None: all that follow.
    :param where: the blob, for errors.
    :param whole_instead: if the server answers with the whole blob in place of the range, the stream is all of that.
    :raises als.errors.RegistryError: the stream could not be opened.
    """

    def __init__(
        self,
        request: Callable[[Mapping[str, str]], Answer],
        transport: Transport,
        offset: int,
        length: int | None,
        where: str,
        *,
        whole_instead: bool = False,
    ) -> None:
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("a range starts at 0 or later and is not negative")
        self.size: int | None = None
        self.start = offset
        """Of the stream in the blob."""
        self.place = ""
        """Who answered, as errors may show it."""
        self.whole = False
        """Whether the server gives the whole blob where a range was asked for, and the stream is that."""
        self._whole_instead = whole_instead
        self._request = request
        self._transport = transport
        self._position = offset
        self._end = None if length is None else offset + length
        self._where = where
        self._answer: Answer | None = None
        self._skip = 0
        self._interruptions = 0
        self._safe = offset
        if length != 0:
            self._open()

    def read(self, amount: int, /) -> bytes:
        """Up to `amount` bytes; empty at the end and only there.

        :raises RegistryUnavailable: the stream broke and could not be taken up again.
        """
        while amount > 0 and not self._finished():
            try:
                if self._answer is None:
                    self._open()
                    continue
                if self._skip:
                    self._skip -= len(self._receive(min(self._skip, _PIECE)) or self._ended_early())
                    continue
                data = self._receive(min(amount, _PIECE, self._wanted())) or self._ended_early()
            except RegistryUnavailable as error:
                self._interrupted(error)
                continue
            if not data:
                return b""
            self._position += len(data)
            if self._finished():
                self._drop()
            return data
        return b""

    def close(self) -> None:
        """Give up the connection, or return it to the pool if everything was read."""
        self._end = self._position
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _finished(self) -> bool:
        return self._end is not None and self._position >= self._end

    def _wanted(self) -> int:
        return _PIECE if self._end is None else self._end - self._position

    def _range(self) -> str:
        return f"bytes {self._position}-{'' if self._end is None else self._end - 1}"

    def _open(self) -> None:
        whole = self._position == 0 and self._end is None
        self._skip = 0
        answer = self._request({} if whole else {"Range": self._range().replace(" ", "=")})
        self._answer = answer
        self.place = answer.place
        try:
            if answer.header("Content-Encoding") not in (None, "", "identity"):
                raise self._error("the server encoded the blob although it was asked not to", answer)
            if answer.status == 206:
                self._opened_range(answer)
            elif answer.status == 416:
                self._opened_beyond(answer)
            else:
                self._opened_whole(answer)
        except RegistryError:
            self._drop()
            raise

    def _opened_range(self, answer: Answer) -> None:
        self._whole_instead = False
        content = parse_content_range(answer.header("Content-Range"))
        if content is None or content.start != self._position:
            raise self._error(f"the answer to {self._range()} is {answer.header('Content-Range')!r}", answer)
        self._set_size(content.size, answer)
        if self._end is None:
            self._end = content.end

    def _opened_beyond(self, answer: Answer) -> None:
        content = parse_content_range(answer.header("Content-Range"))
        self._set_size(content.size if content is not None else None, answer)
        if self.size is None or self._position > self.size:
            raise self._error(f"{self._range()} lies beyond the blob's end", answer)
        if self._position < self.size:
            raise self._error(f"the server refuses {self._range()} of {self.size}", answer)
        discard(answer.response)
        self._answer = None

    def _opened_whole(self, answer: Answer) -> None:
        length = answer.header("Content-Length")
        self._set_size(int(length) if length and re.fullmatch("[0-9]{1,18}", length) else None, answer)
        if self.size is not None and self._position > self.size:
            raise self._error(f"{self._range()} lies beyond the blob's end at {self.size}", answer)
        if self._whole_instead and self._position == self.start:
            self._position = self.start = self._safe = 0
            self._end = self.size
            self.whole = True
        self._skip = self._position

    def _set_size(self, size: int | None, answer: Answer) -> None:
        if size is None:
            return
        if self.size is not None and self.size != size:
            raise self._error(f"the blob's size changed from {self.size} to {size} bytes", answer)
        self.size = size
        self._end = size if self._end is None else min(self._end, size)

    def _receive(self, amount: int) -> bytes:
        if self._answer is None:
            return b""
        try:
            data: bytes = self._answer.response.read(amount)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            what = f"{self._range()} broke off ({type(error).__name__})"
            raise RegistryUnavailable(what, where=f"{self._where} from {self._answer.place}") from error
        return data

    def _ended_early(self) -> bytes:
        """What an answer's end means: the blob's end if nothing else tells where that is, otherwise an interruption."""
        if self._end is None and self.size is None and not self._skip:
            # HTTP itself marks the end of an answer in chunks, so it was not cut off.
            self._end = self.size = self._position
            self._drop()
            return b""
        place = self._answer.place if self._answer else ""
        raise RegistryUnavailable(f"{self._range()} ended early", where=f"{self._where} from {place}")

    def _interrupted(self, error: RegistryUnavailable) -> None:
        opened = self._answer is not None
        self._drop()
        if self._position - self._safe >= _PROGRESS:
            self._safe, self._interruptions = self._position, 0
        self._interruptions += 1
        if not opened or self._interruptions >= self._transport.settings.attempts:
            raise error
        self._transport.pause(pause_before(self._interruptions, self._transport.settings, None))

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.response.close()
            self._answer = None

    def _error(self, what: str, answer: Answer) -> RegistryError:
        return RegistryError(what, where=f"{self._where} from {answer.place} (status {answer.status})")
