"""What a request to the mirror asks for. Pure.

The distribution protocol's two ways to read, and ``/v2/`` itself. The other endpoints (tags, referrers, version 1, extensions)
do not exist here, so that clients ask the registry for them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from als.model.reference import is_tag
from als.registry.source import as_digest

_TARGET = re.compile(r"/v2/([a-z0-9._/-]{1,255})/(manifests|blobs)/([A-Za-z0-9_.:-]{1,140})")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_OWN_AGENT = "als/"


class Kind(enum.Enum):
    """What is asked for."""

    PING = "ping"
    MANIFEST = "manifests"
    BLOB = "blobs"


@dataclass(frozen=True, slots=True)
class Route:
    """A target of ours."""

    kind: Kind
    path: str = ""
    """What stands between ``/v2/`` and the kind: the repository below our own address."""
    name: str = ""
    """Tag or digest; of a blob, a digest."""


def parse_target(target: str) -> Route | None:
    """Read a request's target; None: there is nothing of that name here."""
    path = target.partition("?")[0]
    if path in ("/v2/", "/v2"):
        return Route(Kind.PING)
    match = _TARGET.fullmatch(path)
    if match is None:
        return None
    kind, name = Kind(match[2]), match[3]
    if as_digest(name) is None and (kind is Kind.BLOB or not is_tag(name)):
        return None
    return Route(kind, match[1], name)


def is_addressed_to(host: str | None, addresses: Collection[str]) -> bool:
    """Whether a ``Host`` header names the listener. Another name means that a browser was led here by a foreign page's DNS."""
    return host is not None and host.lower() in addresses


def is_our_own(user_agent: str) -> bool:
    """Whether the request comes from als itself, which would make us ask ourselves."""
    return user_agent.startswith(_OWN_AGENT)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a blob: from the first byte on, `length` of them or all that follow."""

    start: int
    length: int | None


def parse_range(header: str | None) -> Span | None:
    """The part that a ``Range`` header asks for; None where the whole is wanted.

    :raises ValueError: it asks for several parts (answered by 400, containers/image asks part by part), or not for bytes.
    """
    if header is None:
        return None
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if match is None:
        raise ValueError(header)
    start = int(match[1])
    if not match[2]:
        return Span(start, None)
    if int(match[2]) < start:
        raise ValueError(header)
    return Span(start, int(match[2]) - start + 1)


@dataclass(frozen=True, slots=True)
class Part:
    """How the answer to a request for a blob begins."""

    status: int
    headers: Mapping[str, str]
    length: int | None
    """Bytes that follow; None: the end of the answer will tell."""


def blob_part(span: Span | None, size: int | None) -> Part | None:
    """The answer's beginning for a blob of which `size` bytes are known to exist; None: there is no such part of it."""
    if span is None:
        return Part(200, {} if size is None else {"Content-Length": str(size)}, size)
    if size is None or span.start >= size:
        return None
    end = size if span.length is None else min(size, span.start + span.length)
    length = end - span.start
    return Part(206, {"Content-Range": f"bytes {span.start}-{end - 1}/{size}", "Content-Length": str(length)}, length)
