"""How patiently a registry is spoken to, and through which proxy: plain data for the process that does it."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from als.errors import ConfigError
from als.registry.environment import Environment


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of the environment, with the meaning Go programs (and so podman) give to those variables.

    A proxy's URL may hold a password, so none is shown by ``repr()``.
    """

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    exceptions: tuple[str, ...] = ()
    """``NO_PROXY``: host names (with their subdomains), ``.domains`` (only those), addresses, networks, each optionally
    with a port; ``*`` is everything."""

    @classmethod
    def from_environment(cls, environment: Environment) -> Proxies:
        """Read ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``, or their lower-case forms.

        :raises ConfigError: a proxy is not an http:// or https:// URL.
        """

        def read(name: str) -> str:
            return environment.get(name) or environment.get(name.lower())

        exceptions = tuple(filter(None, (item.strip().lower() for item in read("NO_PROXY").split(","))))
        return cls(_proxy_url(read("HTTP_PROXY"), "HTTP_PROXY"), _proxy_url(read("HTTPS_PROXY"), "HTTPS_PROXY"), exceptions)

    def choose(self, scheme: str, host: str, port: int) -> str:
        """The URL of the proxy for a connection, or an empty text: connect directly. This machine itself never is proxied."""
        proxy = self.https if scheme == "https" else self.http
        if not proxy or host == "localhost" or (_address(host) or ipaddress.IPv4Address(0)).is_loopback:
            return ""
        return "" if any(_excepted(exception, host.lower(), port) for exception in self.exceptions) else proxy


def _proxy_url(text: str, name: str) -> str:
    if not text:
        return ""
    url = text if "://" in text else f"http://{text}"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        # Without the value: it may hold a password.
        raise ConfigError("not the URL of an HTTP proxy", where=name, hint="write http://HOST:PORT")
    return url


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _excepted(exception: str, host: str, port: int) -> bool:
    if exception == "*":
        return True
    address = _address(host)
    if address is not None:
        return _excepted_address(exception, address, port)
    name, colon, wanted_port = exception.partition(":")
    if colon and wanted_port != str(port):
        return False
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _excepted_address(exception: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bool:
    text = exception
    if _address(text) is None and "/" not in text:
        text, _, wanted_port = exception.rpartition(":")
        if wanted_port != str(port):
            return False
    try:
        return address in ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are in seconds."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    """For each piece of an answer."""
    deadline: float = 120.0
    """For one request with all its retries, redirects and tokens, until the answer's head is here."""
    attempts: int = 5
    """How often a request is made that fails for temporary reasons."""
    backoff: float = 0.25
    """The first pause between attempts; each further one is twice as long, all of them jittered."""
    backoff_max: float = 15.0
    connections: int = 8
    """Connections that are kept per host."""
    proxies: Proxies = Proxies()

    def to_json(self) -> dict[str, Any]:
        """For a pipe to a process of ours; a proxy's URL may hold a password."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """The reverse of `to_json`."""
        proxies = data["proxies"]
        return cls(**{**data, "proxies": Proxies(proxies["http"], proxies["https"], tuple(proxies["exceptions"]))})
