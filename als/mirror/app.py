"""What the mirror answers: manifests, after their image was published, and blobs, passed on.

Whoever asks as root gets what root's credentials open. Everybody else gets what is open to all: the registry is asked anew
for each manifest and blob, without credentials, whether the store has it or not.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from als.errors import AlsError, BadImage, ConfigError, DeadlineExceeded, NotFound, RegistryDenied, RegistryUnavailable
from als.mirror.publish import Publications, is_image
from als.mirror.routes import Kind, Span, blob_part, is_addressed_to, is_our_own, parse_range, parse_target
from als.mirror.upstream import Answer, Upstreams
from als.model.digest import Digest
from als.model.manifest import SCHEMA1, Index, Manifest, choose, parse_manifest
from als.model.reference import Reference
from als.registry.host import host_platform
from als.registry.mirrored import addresses
from als.registry.source import RawManifest, check_digest
from als.service import Service

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")
_REMEMBERED = 1024
_DECLINED_SECONDS = 30.0
_SMALL = 1 << 20
"""Bytes of a blob that is received whole before any of it is passed on."""
_BLOB_HEADERS = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
_STATUSES: tuple[tuple[type[AlsError], int, str], ...] = (
    (NotFound, 404, "MANIFEST_UNKNOWN"),
    (RegistryDenied, 403, "DENIED"),
    (RegistryUnavailable, 503, "UNAVAILABLE"),
    (DeadlineExceeded, 504, "UNAVAILABLE"),
    (ConfigError, 500, "UNKNOWN"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By lower-case names."""

    @property
    def wants_body(self) -> bool:
        return self.method != "HEAD"


class Reply(Protocol):
    """The answer to one request. After HEAD no data may follow."""

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin it."""
        ...

    async def data(self, data: bytes) -> None: ...


class Abandoned(Exception):
    """The connection is to end without an answer, or in the middle of one: then the client begins anew."""


class App:
    """The mirror without its network side.

    :param find: the image that a path and a tag or digest stand for; None: nothing that we may be asked for. Blocks.
    """

    def __init__(
        self,
        service: Service,
        upstreams: Upstreams,
        publications: Publications,
        find: Callable[[str, str], Reference | None],
        port: int,
    ) -> None:
        self._service = service
        self._upstreams = upstreams
        self._publications = publications
        self._find = find
        self._addresses = addresses(port)
        self._platform = host_platform()
        self._names: OrderedDict[tuple[str, Digest], Reference] = OrderedDict()
        """By what reference to an index a manifest was found."""
        self._configs: OrderedDict[tuple[str, Digest], Digest] = OrderedDict()
        """The image whose configuration a blob is."""
        self._declined: dict[tuple[str, bool], float] = {}
        """Until when manifests of a repository are left to the registry, because a blob of it could not be passed on."""

    async def handle(self, request: Request, reply: Reply, uid: int | None) -> None:
        """Answer a request.

        :param uid: of who asks; None: nobody that is served.
        :raises Abandoned: the connection has to end.
        """
        try:
            await self._dispatch(request, reply, uid)
        except AlsError as error:
            status, code = next(
                ((status, code) for kind, status, code in _STATUSES if isinstance(error, kind)), (502, "UNKNOWN")
            )
            log.info("%s %s: %d: %s", request.method, request.target, status, error)
            await _refuse(request, reply, status, code, str(error))

    async def _dispatch(self, request: Request, reply: Reply, uid: int | None) -> None:
        if not is_addressed_to(request.headers.get("host"), self._addresses):
            return await _refuse(request, reply, 421, "DENIED", "not the name of this server")
        if request.method not in ("GET", "HEAD"):
            return await _refuse(request, reply, 405, "UNSUPPORTED", "this mirror can only be read", {"Allow": "GET, HEAD"})
        route = parse_target(request.target)
        if route is None:
            return await _refuse(request, reply, 404, "NOT_FOUND", "no such endpoint; ask the registry")
        if route.kind is Kind.PING:
            return await _whole(request, reply, 200, b"{}", {"Content-Type": "application/json"})
        if uid is None or is_our_own(request.headers.get("user-agent", "")):
            return await _refuse(request, reply, 403, "DENIED", "this mirror serves root and the users that als.toml names")
        reference = await trio.to_thread.run_sync(self._find, route.path, route.name)
        if reference is None:
            return await _refuse(
                request, reply, 404, "NAME_UNKNOWN", "registries.conf names this mirror for no such repository"
            )
        if route.kind is Kind.MANIFEST:
            return await self._manifest(request, reply, reference, anonymous=uid != 0)
        return await self._blob(request, reply, reference, anonymous=uid != 0)

    async def _manifest(self, request: Request, reply: Reply, reference: Reference, *, anonymous: bool) -> None:
        if self._declined.get((reference.name, anonymous), 0.0) > time.monotonic():
            raise RegistryUnavailable("a blob could not be passed on; ask the registry", where=str(reference))
        raw = None if anonymous else await trio.to_thread.run_sync(self._known, reference)
        if raw is None:
            raw = await self._upstreams.manifest(reference, anonymous)
        if request.wants_body:
            await self._prepare(reference, raw, anonymous)
        headers = {"Content-Type": raw.media_type} if raw.media_type else {}
        if raw.media_type not in SCHEMA1:
            headers["Docker-Content-Digest"] = str(raw.digest)
        await _whole(request, reply, 200, raw.data, headers)

    def _known(self, reference: Reference) -> RawManifest | None:
        """A manifest of the store, if it was asked for by digest: that cannot have changed."""
        if reference.digest is None:
            return None
        try:
            image = self._service.images.get(reference.digest)
        except (AlsError, OSError) as error:
            if not isinstance(error, NotFound):
                log.warning("%s is asked for at the registry: %s", reference, error)
            return None
        return RawManifest(image.media_type, image.manifest_data, image.digest)

    async def _prepare(self, reference: Reference, raw: RawManifest, anonymous: bool) -> None:
        """Do what can be done for an image before its manifest is answered."""
        try:
            manifest = parse_manifest(raw.data, raw.media_type)
        except BadImage as error:
            log.info("%s is passed on: %s", reference, error)
            return
        if isinstance(manifest, Index):
            self._note_index(reference, manifest)
        elif is_image(manifest):
            await self._publish(reference, raw, manifest, anonymous)

    def _note_index(self, reference: Reference, index: Index) -> None:
        """The client's next request is for one of its images. The one that `als pull` would take is known by the same name
        then; another platform's must not take the name from it."""
        try:
            own = choose(index, self._platform)
        except NotFound:
            return
        for key in [key for key, known in self._names.items() if known == reference]:
            del self._names[key]
        _remember(self._names, (reference.name, own.digest), reference)

    async def _publish(self, reference: Reference, raw: RawManifest, manifest: Manifest, anonymous: bool) -> None:
        known_as = self._names.get((reference.name, raw.digest), reference)
        await self._publications.wait(known_as, raw, anonymous)
        _remember(self._configs, (reference.name, manifest.config.digest), raw.digest)

    async def _blob(self, request: Request, reply: Reply, reference: Reference, *, anonymous: bool) -> None:
        try:
            span = parse_range(request.headers.get("range")) if request.wants_body else Span(0, 1)
        except ValueError:
            return await _refuse(request, reply, 400, "UNSUPPORTED", "one range of bytes at a time")
        config = None if anonymous or span else await trio.to_thread.run_sync(self._config, reference)
        if config is not None:
            headers = {**_BLOB_HEADERS, "Docker-Content-Digest": str(reference.digest)}
            return await _whole(request, reply, 200, config, headers)
        try:
            await self._pass_on(request, reply, reference, span, anonymous)
        except AlsError as error:
            log.warning("%s cannot be passed on, the client is sent to the registry: %s", reference, error)
            now = time.monotonic()
            self._declined = {key: until for key, until in self._declined.items() if until > now}
            self._declined[reference.name, anonymous] = now + _DECLINED_SECONDS
            raise Abandoned from error

    def _config(self, reference: Reference) -> bytes | None:
        """A configuration that the store has."""
        assert reference.digest is not None
        digest = self._configs.get((reference.name, reference.digest))
        if digest is None:
            return None
        try:
            return self._service.images.get(digest).config_data
        except (AlsError, OSError):
            # The registry has it as well.
            return None

    async def _pass_on(self, request: Request, reply: Reply, reference: Reference, span: Span | None, anonymous: bool) -> None:
        async with self._upstreams.blob(reference, span or Span(0, None), anonymous) as (size, answer):
            part = blob_part(span if request.wants_body else None, size)
            if part is None:
                await _refuse(request, reply, 416, "RANGE_INVALID", "the blob has no such part")
                return
            headers = {**_BLOB_HEADERS, "Docker-Content-Digest": str(reference.digest), **part.headers}
            if not request.wants_body:
                await reply.head(part.status, headers)
                return
            async with aclosing(_exactly(answer, part.length, str(reference))) as pieces:
                if part.length is not None and part.length <= _SMALL:
                    # Whole or not at all: of a configuration that breaks off no client begins anew.
                    data = b"".join([piece async for piece in pieces])
                    if span is None and reference.digest is not None:
                        check_digest(data, reference.digest, str(reference))
                    await reply.head(part.status, headers)
                    await reply.data(data)
                    return
                await reply.head(part.status, headers)
                async for piece in pieces:
                    await reply.data(piece)


async def _exactly(answer: Answer, length: int | None, where: str) -> AsyncGenerator[bytes, None]:
    """The pieces of an answer that has to have `length` bytes, if that is known.

    :raises BadImage: it has more or fewer.
    """
    left = length
    while piece := await answer.piece():
        if left is not None:
            left -= len(piece)
            if left < 0:
                raise BadImage("more bytes came than the registry promised", where=where)
        yield piece
    if left:
        raise BadImage(f"{left} bytes are missing", where=where)


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)


async def _whole(request: Request, reply: Reply, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    await reply.head(status, {**headers, "Content-Length": str(len(body))})
    if request.wants_body:
        await reply.data(body)


async def _refuse(
    request: Request, reply: Reply, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> None:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    await _whole(request, reply, status, body, {"Content-Type": "application/json", **(headers or {})})
