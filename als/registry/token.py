"""How an endpoint is convinced of who we are: Basic, or Bearer tokens from a token server.

The token protocol is that of the distribution project (``docs/spec/auth/{token,oauth}.md``). A token is fetched again
before it expires, and at once when the registry refuses it. Where a registry asks for Bearer tokens, our credential goes to
the token server that *its own* answers name, and there over TLS only unless the endpoint is configured as insecure.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from als.errors import RegistryDenied, RegistryError
from als.registry.challenge import Challenge
from als.registry.endpoint import Credential, Endpoint
from als.registry.retry import Deadline

_DEFAULT_LIFETIME = 60
"""Seconds, where the token server does not say (the specification's default)."""
_LIFETIME_MAX = 10**9
_MARGIN_MAX = 30.0
_TOKEN = re.compile(r"[!-~]{1,65536}")
MAX_ANSWER = 1 << 20
"""Bytes of a token server's answer; containers/image's bound too."""


class TokenRequest(NamedTuple):
    """What to send to a token server."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None


Exchange = Callable[[TokenRequest, Deadline], bytes]
"""Sends a request to a token server and returns the body of its answer, at most `MAX_ANSWER` bytes of it."""


class _Key(NamedTuple):
    realm: str
    service: str
    scope: str


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    stale_at: float
    """On the monotonic clock: when a new one should be fetched."""


def basic_header(credential: Credential) -> str:
    """The value of ``Authorization`` for a name and a password."""
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()


class Authorizer:
    """Finds the ``Authorization`` header for one endpoint; safe to be used by several threads.

    :param exchange: sends a request to a token server.
    """

    def __init__(self, endpoint: Endpoint, exchange: Exchange) -> None:
        self._endpoint = endpoint
        self._exchange = exchange
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[_Key, _Token] = {}

    def header(self, deadline: Deadline) -> str | None:
        """The header to send with the next request, or None while the endpoint has asked for nothing.

        :raises RegistryDenied: the token server refuses our credential.
        """
        with self._lock:
            if self._challenge is None:
                return None
            return self._make_header(self._challenge, deadline)

    def renew(self, challenges: Sequence[Challenge], refused: str | None, deadline: Deadline) -> str | None:
        """Another header after the endpoint refused a request, or None if there is none that it might like better.

        :param challenges: what its answer asks for; empty where it did not say.
        :param refused: the header that the request had.
        """
        with self._lock:
            challenge = self._pick(challenges) or self._challenge
            if challenge is None:
                return None
            self._challenge = challenge
            if challenge.scheme == "bearer":
                token = self._tokens.get(self._key(challenge))
                if token is not None and token.header == refused:
                    del self._tokens[self._key(challenge)]
            header = self._make_header(challenge, deadline)
            return None if header == refused else header

    def _pick(self, challenges: Sequence[Challenge]) -> Challenge | None:
        """The first challenge that we can answer, in the server's order as containers/image does it."""
        return next((challenge for challenge in challenges if challenge.scheme in ("basic", "bearer")), None)

    def _make_header(self, challenge: Challenge, deadline: Deadline) -> str | None:
        credential = self._endpoint.credential
        if challenge.scheme == "basic":
            return basic_header(credential) if credential is not None and credential.username else None
        key = self._key(challenge)
        token = self._tokens.get(key)
        if token is None or time.monotonic() >= token.stale_at:
            # Under the lock: threads that start together shall not all ask for the same token.
            token = self._fetch(key, deadline)
            self._tokens[key] = token
        return token.header

    def _key(self, challenge: Challenge) -> _Key:
        own = f"repository:{self._endpoint.repository}:pull"
        parameters = challenge.parameters
        asked = parameters.get("scope", own)
        scope = asked if own in asked.split() else f"{own} {asked}"
        return _Key(parameters.get("realm", ""), parameters.get("service", ""), scope)

    def _fetch(self, key: _Key, deadline: Deadline) -> _Token:
        scheme = urlsplit(key.realm).scheme
        if scheme != "https" and not (scheme == "http" and self._endpoint.insecure):
            raise RegistryDenied(
                "it wants a token from a server that is not spoken to over TLS",
                where=self._endpoint.host,
                hint="set insecure = true for it in registries.conf if that is intended",
            )
        start = time.monotonic()
        answer = self._exchange(token_request(key.realm, key.service, key.scope, self._endpoint.credential), deadline)
        text, lifetime = parse_token(answer, self._endpoint.host)
        return _Token(f"Bearer {text}", start + lifetime - min(_MARGIN_MAX, lifetime / 4))


def token_request(realm: str, service: str, scope: str, credential: Credential | None) -> TokenRequest:
    """The request for a token: OAuth2's refresh grant where we have an identity token, otherwise a plain GET."""
    scopes = [("scope", item) for item in scope.split()]
    services = [("service", service)] if service else []
    if credential is not None and credential.identity_token:
        form = [("grant_type", "refresh_token"), ("refresh_token", credential.identity_token), ("client_id", "als")]
        body = urlencode([*services, *scopes, *form]).encode()
        return TokenRequest("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, body)
    accounts = [("account", credential.username)] if credential is not None and credential.username else []
    parts = urlsplit(realm)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *accounts, *services, *scopes])
    headers = {"Authorization": basic_header(credential)} if credential is not None and credential.username else {}
    return TokenRequest("GET", urlunsplit(parts._replace(query=query, fragment="")), headers, None)


def parse_token(answer: bytes, where: str) -> tuple[str, float]:
    """The token and its lifetime in seconds from a token server's answer.

    The lifetime counts from when we asked; ``issued_at`` is not used, as it is of no use between clocks that differ.

    :raises RegistryError: there is no usable token in it. The error shows nothing of the answer.
    """
    try:
        fields = json.loads(answer)
    except (ValueError, RecursionError):
        raise RegistryError("the token server's answer is not JSON", where=where) from None
    fields = fields if isinstance(fields, dict) else {}
    text = fields.get("token") or fields.get("access_token")
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise RegistryError("the token server's answer holds no token", where=where)
    lifetime = fields.get("expires_in")
    if not isinstance(lifetime, int | float) or not 0 < lifetime <= _LIFETIME_MAX:
        lifetime = _DEFAULT_LIFETIME
    return text, float(lifetime)
