"""Requests to one endpoint: scheme, authorization, redirects, retries, and statuses turned into errors.

A credential or token is sent only to the origin (scheme, host, port) that it is for. Once a redirect has led elsewhere the
rest of the way is anonymous, even where it leads back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin

import urllib3.exceptions

from als.errors import NotFound, RegistryDenied, RegistryError, RegistryUnavailable
from als.registry.challenge import Challenge, parse_challenges
from als.registry.endpoint import Endpoint
from als.registry.retry import TEMPORARY_STATUSES, Deadline, pause_before
from als.registry.token import MAX_ANSWER, Authorizer, TokenRequest
from als.registry.transport import Transport, Trust, discard, origin, show

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

T = TypeVar("T")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 10
_REFUSED = (401, 403)
_GREETING_SECONDS = 1.0
"""The longest wait for the answer to a greeting."""


@dataclass(slots=True)
class Answer:
    """A response with its body unread, and where it came from in the end."""

    response: BaseHTTPResponse
    url: str

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status

    @property
    def place(self) -> str:
        """The URL as errors may show it."""
        return show(self.url)

    def header(self, name: str) -> str | None:
        """A header's value."""
        value: str | None = self.response.headers.get(name)
        return value


class Session:
    """Everything that is remembered about one endpoint; safe to be used by several threads."""

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self.endpoint = endpoint
        self._transport = transport
        self._authorizer = Authorizer(endpoint, self._exchange)
        self._lock = threading.Lock()
        self._scheme = "" if endpoint.insecure else "https"

    def get(self, path: str, headers: Mapping[str, str], accept: tuple[int, ...] = (200,), where: str = "") -> Answer:
        """Ask for ``/v2/REPOSITORY/path``, as often as temporary failures make sensible.

        :param accept: the statuses that are no error.
        :param where: what is asked for, for errors.
        :raises RegistryUnavailable: all attempts failed for temporary reasons.
        :raises RegistryDenied: 401 or 403, also with a new token.
        :raises NotFound: 404 or 410.
        :raises RegistryError: any other status, or an answer that makes no sense.
        """
        return self._retrying(lambda deadline: self._accepted(path, headers, accept, deadline, where), where)

    def get_bytes(self, path: str, headers: Mapping[str, str], limit: int, where: str = "") -> tuple[Answer, bytes]:
        """The same for a small document, which is read within the same attempts.

        :param limit: bytes it may have.
        """

        def attempt(deadline: Deadline) -> tuple[Answer, bytes]:
            answer = self._accepted(path, headers, (200,), deadline, where)
            return answer, read_body(answer, limit, self._where(where, answer.place))

        return self._retrying(attempt, where)

    def _accepted(
        self, path: str, headers: Mapping[str, str], accept: tuple[int, ...], deadline: Deadline, where: str
    ) -> Answer:
        answer = self._authorized(f"/v2/{self.endpoint.repository}/{path}", headers, deadline)
        if answer.status in accept:
            return answer
        discard(answer.response)
        raise self._error(answer, where)

    def _retrying(self, attempt: Callable[[Deadline], T], where: str) -> T:
        settings = self._transport.settings
        deadline = Deadline(settings.deadline)
        number = 1
        while True:
            try:
                return attempt(deadline)
            except RegistryUnavailable as error:
                pause = pause_before(number, settings, error.retry_after if isinstance(error, _Busy) else None)
                if number >= settings.attempts or pause >= deadline.remaining:
                    place = error.where if error.where.startswith(where) else self._where(where, error.where)
                    raise RegistryUnavailable(error.what, where=place, hint=f"attempts made: {number}") from error
            self._transport.pause(pause)
            number += 1

    def _authorized(self, path: str, headers: Mapping[str, str], deadline: Deadline) -> Answer:
        """One attempt, with a second request where the first was refused and another authorization can be had."""
        header = self._authorizer.header(deadline)
        answer = self._own(path, headers, header, deadline)
        if answer.status not in _REFUSED or not self._is_own(answer.url):
            return answer
        challenges = self._challenges(answer)
        if answer.status == 401 and not challenges and header is None:
            # Some registries name their token server only here (gcr.io has been one).
            ping = self._own("/v2/", {}, None, deadline)
            challenges = self._challenges(ping)
            discard(ping.response)
        renewed = self._authorizer.renew(challenges, header, deadline)
        if renewed is None:
            return answer
        discard(answer.response)
        return self._own(path, headers, renewed, deadline)

    def _own(self, path: str, headers: Mapping[str, str], authorization: str | None, deadline: Deadline) -> Answer:
        """A request to the endpoint itself, over the scheme that it speaks."""
        if self._scheme:
            return self._follow(f"{self._scheme}://{self.endpoint.host}{path}", headers, authorization, deadline)
        plain = threading.Thread(target=self._greet_plain, args=(deadline,), daemon=True)
        plain.start()
        try:
            # Nothing is authorized before the scheme is known, so that no password goes out in the clear needlessly.
            answer = self._follow(f"https://{self.endpoint.host}{path}", headers, authorization, deadline)
            scheme = "https"
        except RegistryError:
            plain.join(_GREETING_SECONDS)
            answer = self._follow(f"http://{self.endpoint.host}{path}", headers, authorization, deadline)
            scheme = "http"
        with self._lock:
            self._scheme = self._scheme or scheme
        return answer

    def _greet_plain(self, deadline: Deadline) -> None:
        """Have a connection without TLS ready in case that it is needed: a round trip less for registries that have no other.
        It says nothing but that somebody asks a registry; HEAD, so that no body has to be waited for."""
        try:
            trust = Trust(self.endpoint.tls, self.endpoint.insecure, identify=False)
            discard(self._transport.send("HEAD", f"http://{self.endpoint.host}/v2/", {}, trust, deadline))
        except (RegistryError, RegistryUnavailable):
            # Who needs it will see for himself.
            return

    def _follow(self, url: str, headers: Mapping[str, str], authorization: str | None, deadline: Deadline) -> Answer:
        first = origin(url)
        for _ in range(_MAX_REDIRECTS):
            own = origin(url) == first
            if not own:
                authorization = None
            # As containers/image: whom a registry sends us to is believed on the same terms, but not shown our certificate.
            trust = Trust(self.endpoint.tls, self.endpoint.insecure, identify=own)
            sent = {**headers, "Authorization": authorization} if authorization else headers
            response = self._transport.send("GET", url, sent, trust, deadline)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return Answer(response, url)
            discard(response)
            url = self._redirected(url, location)
        raise RegistryError(f"more than {_MAX_REDIRECTS} redirects", where=show(url))

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
        except ValueError as error:
            raise RegistryError("redirects to something that is not a URL", where=show(url)) from error
        if origin(target)[0] == "http" and origin(url)[0] == "https" and not self.endpoint.insecure:
            raise RegistryError(f"redirects from TLS to plain HTTP: {show(target)}", where=show(url))
        return target

    def _exchange(self, request: TokenRequest, deadline: Deadline) -> bytes:
        """Talk to a token server; it sees our credential, and nobody that it might redirect to does."""
        where = f"token server {show(request.url)} for {self.endpoint.name}"
        trust = Trust(self.endpoint.tls, self.endpoint.insecure, identify=origin(request.url) == self._origin())
        response = self._transport.send(request.method, request.url, request.headers, trust, deadline, request.body)
        answer = Answer(response, request.url)
        if answer.status == 200:
            return read_body(answer, MAX_ANSWER, where)
        discard(response)
        if answer.status in TEMPORARY_STATUSES:
            raise _Busy(answer, where)
        problem = f"no token: status {answer.status}"
        if answer.status in (400, *_REFUSED):
            raise RegistryDenied(problem, where=where, hint=f"podman login {self.endpoint.domain}")
        raise RegistryError(problem, where=where)

    def _origin(self) -> tuple[str, str, int]:
        return origin(f"{self._scheme or 'https'}://{self.endpoint.host}")

    def _is_own(self, url: str) -> bool:
        return origin(url) == self._origin()

    def _challenges(self, answer: Answer) -> tuple[Challenge, ...]:
        if not self._is_own(answer.url):
            return ()
        return parse_challenges(answer.response.headers.getlist("WWW-Authenticate"))

    def _where(self, what: str, place: str) -> str:
        return f"{what} from {place}" if what else place

    def _error(self, answer: Answer, what: str) -> RegistryError | NotFound:
        where = self._where(what, answer.place)
        status = answer.status
        if status in TEMPORARY_STATUSES:
            return _Busy(answer, where)
        if status in (404, 410):
            return NotFound("the registry does not have it", where=where)
        if status not in _REFUSED:
            return RegistryError(f"status {status}", where=where)
        if not self._is_own(answer.url):
            return RegistryDenied(f"status {status} from the server that {self.endpoint.host} redirects to", where=where)
        known = self.endpoint.credential is not None
        problem = "our credential gives no access to it" if known else "it wants a credential and we have none"
        return RegistryDenied(f"status {status}: {problem}", where=where, hint=f"podman login {self.endpoint.domain}")


class _Busy(RegistryUnavailable):
    """An answer with a temporary status, which may say when to ask again."""

    def __init__(self, answer: Answer, where: str) -> None:
        super().__init__(f"status {answer.status}", where=where)
        self.retry_after = answer.header("Retry-After")


def read_body(answer: Answer, limit: int, where: str) -> bytes:
    """The whole body of an answer.

    :raises RegistryUnavailable: the connection broke.
    :raises RegistryError: it is longer than `limit` bytes.
    """
    data = bytearray()
    try:
        while len(data) <= limit and (chunk := answer.response.read(limit + 1 - len(data))):
            data += chunk
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise RegistryUnavailable(f"the answer broke off after {len(data)} bytes", where=where) from error
    finally:
        answer.response.close()
    if len(data) > limit:
        raise RegistryError(f"the answer has more than {limit} bytes", where=where)
    length = answer.header("Content-Length")
    if length is not None and length.isascii() and length.isdigit() and int(length[:18]) != len(data):
        raise RegistryUnavailable(f"the answer has {len(data)} bytes instead of {length}", where=where)
    return bytes(data)
