"""One HTTP exchange: connection pools, TLS, proxies. No redirects, no retries, no credentials; see :mod:`als.registry.session`.

urllib3 is used below its own retry and redirect logic: that logic can neither be given a total deadline nor be told which
hosts may see what. Everything used exists both in urllib3 1.26 and in 2.x.
"""

from __future__ import annotations

import os
import ssl
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3
import urllib3.exceptions
from urllib3.util import Timeout, make_headers
from urllib3.util.ssl_ import create_urllib3_context

from als import __version__
from als.errors import ConfigError, RegistryError, RegistryUnavailable
from als.registry.endpoint import ClientCertificate, Tls
from als.registry.retry import Deadline
from als.registry.settings import Settings

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

USER_AGENT = f"als/{__version__}"
_DISCARD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to believe on a connection, and whether to show our own certificate there."""

    tls: Tls
    insecure: bool
    identify: bool


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what has to be the same for a credential to be sent again.

    :raises RegistryError: it is not an http or https URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError as error:
        raise RegistryError("not a URL", where=repr(url[:200])) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RegistryError("not an http or https URL", where=show(url))
    return parts.scheme, parts.hostname, port


def show(url: str) -> str:
    """A URL for an error message, without user information and query: storage services put signatures there."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return SplitResult(parts.scheme, host, parts.path, "", "").geturl()[:300]
    except ValueError:
        return "a malformed URL"


class Transport:
    """Connections to any number of hosts, shared by any number of threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pools: dict[tuple[Trust | None, str], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def send(
        self, method: str, url: str, headers: Mapping[str, str], trust: Trust, deadline: Deadline, body: bytes | None = None
    ) -> BaseHTTPResponse:
        """Make one request and return its answer, whatever its status, with the body still to be read.

        :raises RegistryUnavailable: no answer came: it may be worth another try.
        :raises RegistryError: none will come: the other side's certificate is not to be trusted, or it speaks no TLS.
        """
        seconds = deadline.remaining
        if self._closed.is_set():
            raise RegistryUnavailable("the client has been closed", where=show(url))
        if seconds <= 0:
            raise RegistryUnavailable("no answer within the deadline", where=show(url))
        timeout = Timeout(
            connect=min(self.settings.connect_timeout, seconds),
            read=min(self.settings.read_timeout, seconds),
        )
        try:
            return self._pool(url, trust).request(
                method,
                url,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
                body=body,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except urllib3.exceptions.SSLError as error:
            raise RegistryError(f"TLS failed: {_reason(error)}", where=show(url), hint=_tls_hint(error)) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RegistryUnavailable(f"no answer: {_reason(error)}", where=show(url)) from error

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond `close`."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Close all idle connections and end all pauses; connections in use are closed by those who use them."""
        self._closed.set()
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()

    def _pool(self, url: str, trust: Trust) -> urllib3.PoolManager:
        place = origin(url)
        proxy = self.settings.proxies.choose(*place)
        # Without TLS nothing is asked of the authorities; to load them all takes longer than a request to a near registry.
        key = (trust if "https" in (place[0], urlsplit(proxy).scheme) else None, proxy)
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._make_pool(*key)
            return self._pools[key]

    def _make_pool(self, trust: Trust | None, proxy: str) -> urllib3.PoolManager:
        context = None if trust is None else make_context(trust)
        if not proxy:
            return urllib3.PoolManager(num_pools=16, maxsize=self.settings.connections, ssl_context=context)
        parts = urlsplit(proxy)
        headers = {}
        if parts.username:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = dict(make_headers(proxy_basic_auth=user))
        address = SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], "", "", "").geturl()
        return urllib3.ProxyManager(
            address, proxy_headers=headers, num_pools=16, maxsize=self.settings.connections, ssl_context=context
        )


def discard(response: BaseHTTPResponse) -> None:
    """Be done with an answer; its connection is kept for the next request if what is left of the body is short."""
    try:
        response.read(_DISCARD_BYTES)
    except (urllib3.exceptions.HTTPError, OSError):
        # Nobody wants these bytes; close() below gives up the connection then.
        pass
    finally:
        response.close()


def make_context(trust: Trust) -> ssl.SSLContext:
    """The TLS settings for a connection: the system's authorities and those of `trust`.

    :raises ConfigError: a certificate or key of `trust` cannot be used.
    """
    # urllib3's own function, as its versions differ in whether they or OpenSSL compare the host's name.
    context = create_urllib3_context(cert_reqs=ssl.CERT_NONE if trust.insecure else ssl.CERT_REQUIRED)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if trust.insecure:
        # "insecure = true" in registries.conf is the administrator's answer to this warning.
        warnings.filterwarnings("ignore", category=urllib3.exceptions.InsecureRequestWarning)
    else:
        # Takes longer than a request to a near registry: not to be done for nothing.
        context.load_default_certs()
    try:
        for authority in trust.tls.authorities:
            context.load_verify_locations(cadata=authority)
        if trust.identify:
            for pair in trust.tls.client_certificates:
                _load_pair(context, pair)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"a certificate or key cannot be used: {_reason(error)}", where="certs.d") from error
    return context


def _load_pair(context: ssl.SSLContext, pair: ClientCertificate) -> None:
    """Load a key that we have as text. OpenSSL's interface wants files: it gets pipes, since a worker may write no file, not
    even one in memory."""
    with _readable(pair.certificate) as certificate, _readable(pair.key) as key:
        context.load_cert_chain(certificate, key)


@contextmanager
def _readable(text: str) -> Iterator[str]:
    """The path of a pipe that holds the text.

    :raises ValueError: the text is longer than a pipe holds, which is 64 KiB.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        data = f"{text}\n".encode()
        try:
            if os.write(write_end, data) != len(data):
                raise ValueError("longer than 64 KiB")
        finally:
            os.close(write_end)
        yield f"/proc/self/fd/{read_end}"
    finally:
        os.close(read_end)


def _reason(error: BaseException) -> str:
    """The innermost cause in short, without object addresses and the URL (which `where` shows)."""
    inner = error
    while inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    text = str(inner.args[-1]) if inner.args else type(inner).__name__
    return text.rpartition(">: ")[2][:200]


def _tls_hint(error: urllib3.exceptions.SSLError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "put its authority's certificate into /etc/containers/certs.d/HOST:PORT/ca.crt"
    return "for a registry without TLS, set insecure = true in registries.conf"
