"""The OCI distribution protocol (distribution-spec, "Pull"), for one repository that several endpoints may serve.

Endpoints are asked in their order, as containers/image does it: the first one that has the manifest is asked first from
then on, the others only for what it does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from als.errors import AlsError, BadReference, DigestMismatch, NotFound, RegistryError
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, SCHEMA1
from als.model.reference import is_tag
from als.registry.blob import ACCEPTED, RegistryBlob
from als.registry.endpoint import Endpoint
from als.registry.session import Answer, Session
from als.registry.settings import Settings
from als.registry.source import RawManifest, as_digest, check_digest
from als.registry.transport import Transport

T = TypeVar("T")
_ACCEPT = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))


class RegistryClient:
    """One repository; a :class:`als.registry.source.Source`. May be used by several threads at once.

    :param endpoints: where it is served, the most preferred first and the registry itself last; at least one.
    :param transport: connections to share with other clients; they are then not closed with this one.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        settings: Settings | None = None,
        transport: Transport | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if not endpoints:
            raise ValueError("a client needs an endpoint")
        self._own_transport = transport is None
        self._transport = transport or Transport(settings or Settings())
        self._sessions = [Session(endpoint, self._transport) for endpoint in endpoints]
        self._preferred = self._sessions[0]
        self._limits = limits

    def manifest(self, tag_or_digest: str) -> RawManifest:
        """A manifest or index. Asked for by digest it has that digest; asked for by tag, the one the registry states.

        :raises NotFound: no endpoint has it.
        :raises DigestMismatch: the bytes that came are others.
        :raises RegistryError: no endpoint gave it, for the reason the last one had.
        """
        digest = as_digest(tag_or_digest)
        if digest is None and not is_tag(tag_or_digest):
            raise BadReference("neither a tag nor a digest", where=repr(tag_or_digest[:160]))

        def ask(session: Session) -> RawManifest:
            found = self._manifest(session, tag_or_digest, digest)
            self._preferred = session
            return found

        return self._anywhere(ask)

    def blob(self, digest: Digest, *, offset: int = 0, length: int | None = None, whole_instead: bool = False) -> RegistryBlob:
        """A blob's bytes from `offset`, `length` of them or all that follow; they are not verified here.

        :param whole_instead: from a server that answers with the whole blob in place of a range, take all of it.
        :raises NotFound: no endpoint has it.
        :raises RegistryError: no endpoint gave it.
        """

        def ask(session: Session) -> RegistryBlob:
            where = _name(session, str(digest))

            def request(headers: Mapping[str, str]) -> Answer:
                return session.get(f"blobs/{digest}", headers, ACCEPTED, f"{where} {headers.get('Range', '')}".rstrip())

            return RegistryBlob(request, self._transport, offset, length, where, whole_instead=whole_instead)

        return self._anywhere(ask)

    def close(self) -> None:
        """Close the connections, unless they are shared, and end the pauses between attempts."""
        if self._own_transport:
            self._transport.close()

    def _manifest(self, session: Session, name: str, digest: Digest | None) -> RawManifest:
        where = _name(session, name)
        answer, data = session.get_bytes(f"manifests/{name}", {"Accept": _ACCEPT}, self._limits.manifest_bytes, where)
        media_type = (answer.header("Content-Type") or "").partition(";")[0].strip().lower()
        stated = answer.header("Docker-Content-Digest")
        # Schema 1 is signed: there the stated digest is not that of the bytes.
        expected = digest or (as_digest(stated) if stated and media_type not in SCHEMA1 else None)
        if expected is not None:
            check_digest(data, expected, where)
        return RawManifest(media_type, data, digest or Digest.of(data))

    def _anywhere(self, ask: Callable[[Session], T]) -> T:
        """The answer of the first endpoint that has one; if none has, the error of the registry itself."""
        order = sorted(self._sessions, key=lambda session: session is not self._preferred)
        errors: dict[str, AlsError] = {}
        for session in order:
            try:
                return ask(session)
            except (RegistryError, NotFound, DigestMismatch) as error:
                errors[session.endpoint.name] = error
        main = errors.pop(self._sessions[-1].endpoint.name)
        if not errors:
            raise main
        others = "; ".join(f"{error.where}: {error.what}" for error in errors.values())
        raise type(main)(f"{main.what}; mirrors failed too: {others}", where=main.where, hint=main.hint) from main


def _name(session: Session, name: str) -> str:
    return f"{session.endpoint.name}{'@' if ':' in name else ':'}{name}"
