"""Small servers whose every answer the test decides, and which remember everything that was sent to them."""

from __future__ import annotations

import base64
import json
import math
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from als.registry.endpoint import Endpoint
from tests.harness.system import run


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    port: int = 0
    """The client's, by which a connection can be told from another."""

    @property
    def text(self) -> str:
        """All of it, to look for what must not be in it."""
        return f"{self.method} {self.path}\n{self.headers}\n{self.body!r}"


@dataclass
class Reply:
    """What to answer. `cut` ends the connection after so many bytes of the body, whatever Content-Length promised."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    chunked: bool = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 20
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body, self.client_address[1])
        with self.server.lock:
            self.server.seen.append(request)
            reply = self.server.respond(request)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(reply.body), reply.body) if reply.body else b"0\r\n\r\n")
            return
        if "Content-Length" not in reply.headers:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body[: reply.cut])
        if reply.cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    do_GET = do_POST = _answer

    def do_HEAD(self) -> None:
        """A greeting; whatever else is asked for, is asked for with another method."""
        with self.server.lock:
            self.server.greeted.append(self.client_address[1])
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()

    def log_message(self, *_: object, **__: object) -> None:
        """Nothing: `seen` is the log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], respond: Callable[[Request], Reply]) -> None:
        super().__init__(address, _Handler)
        self.respond = respond
        self.seen: list[Request] = []
        self.greeted: list[int] = []
        self.lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""


class HttpServer:
    """A server on a free port of a loopback address; 127.0.0.2 and others make a second host.

    :param certificate: as `make_certificate` returns it: the server speaks TLS.
    """

    def __init__(
        self, respond: Callable[[Request], Reply], host: str = "127.0.0.1", *, certificate: Path | None = None
    ) -> None:
        self._server = _Server((host, 0), respond)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(f"{certificate}.crt", f"{certificate}.key")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.host = host

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"{self.host}:{self._server.server_address[1]}"

    @property
    def seen(self) -> list[Request]:
        """Every request so far, without greetings."""
        with self._server.lock:
            return list(self._server.seen)

    @property
    def greeted(self) -> list[int]:
        """The ports of clients that asked with HEAD, which only makes a connection."""
        with self._server.lock:
            return list(self._server.greeted)

    def endpoint(self, repository: str = "team/app") -> Endpoint:
        """An endpoint over plain HTTP."""
        return Endpoint(self.address, repository, insecure=True)

    def paths(self) -> list[str]:
        """The paths asked for, without the TLS handshakes (which are no requests here)."""
        return [request.path for request in self.seen]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def range_of(request: Request) -> tuple[int, int | None] | None:
    """First and last byte of a Range header."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    return (int(match[1]), int(match[2]) if match[2] else None) if match else None


def serve_range(request: Request, data: bytes) -> Reply:
    """An honest server's answer, with or without a range."""
    wanted = range_of(request)
    if wanted is None:
        return Reply(200, data)
    first, last = wanted
    if first >= len(data):
        return Reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    part = data[first : len(data) if last is None else last + 1]
    return Reply(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})


def make_certificate(folder: Path, name: str, *, authority: Path | None = None, host: str = "") -> Path:
    """A key (NAME.key) and a certificate (NAME.crt) made with openssl; its path without suffix.

    Without an authority it signs itself and may sign others.
    """
    path = folder / name
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as extensions:
        if authority is None:
            extensions.write("[x]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,digitalSignature\n")
        else:
            extensions.write("[x]\nextendedKeyUsage=serverAuth,clientAuth\n" + (f"subjectAltName=IP:{host}\n" if host else ""))
        extensions.write("[req]\ndistinguished_name=dn\n[dn]\n")
        extensions.flush()
        common = ("-config", extensions.name, "-extensions", "x", "-nodes", "-newkey", "rsa:2048", "-subj", f"/CN={name}")
        signer = () if authority is None else ("-CA", f"{authority}.crt", "-CAkey", f"{authority}.key")
        run("openssl", "req", "-x509", *common, *signer, "-days", "2", "-keyout", f"{path}.key", "-out", f"{path}.crt")
    return path


class TokenIssuer:
    """A token server's mind: signs what docker-registry's ``auth: token`` believes (JWT with RS256 and x5c).

    :param lifetime: seconds; docker-registry grants 60 more to allow for skewed clocks, which is taken off here.
    :param stated: the lifetime stated to the client.
    :param account: user name and password that are asked for, or None: anybody.
    """

    service = "tests"
    issuer = "issuer"

    def __init__(self, certificate: Path, lifetime: float, stated: float, account: tuple[str, str] | None) -> None:
        self._certificate = certificate
        self.lifetime = lifetime
        self._stated = stated
        self._account = account

    def respond(self, request: Request) -> Reply:
        """A token for every scope asked for."""
        if self._account is not None:
            user, password = self._account
            expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
            if request.headers.get("authorization") != expected:
                return Reply(401, b"{}")
        scopes = parse_qs(urlsplit(request.path).query).get("scope", [])
        body = {"token": self.sign(scopes), "expires_in": self._stated}
        return Reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def sign(self, scopes: list[str]) -> str:
        """A JSON web token."""
        der = run("openssl", "x509", "-in", f"{self._certificate}.crt", "-outform", "DER").stdout
        now = time.time()
        access = [dict(zip(("type", "name"), scope.split(":")[:2], strict=True)) | {"actions": ["pull"]} for scope in scopes]
        claims = {
            "iss": self.issuer,
            "sub": "somebody",
            "aud": self.service,
            "exp": math.ceil(now + self.lifetime - 60),
            "nbf": int(now - 600),
            "iat": int(now - 600),
            "jti": str(time.monotonic_ns()),
            "access": access,
        }
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = ".".join(_unpadded(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", f"{self._certificate}.key"]
        signature = subprocess.run(command, input=signed.encode(), capture_output=True, check=True, timeout=30).stdout
        return f"{signed}.{_unpadded(signature)}"


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
