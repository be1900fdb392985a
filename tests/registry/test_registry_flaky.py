"""The client against servers that fail, break off, redirect and lie; each test decides every byte of the answers."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from als.errors import DigestMismatch, NotFound, RegistryDenied, RegistryError, RegistryUnavailable
from als.model.digest import Digest
from als.model.manifest import OCI_MANIFEST
from als.registry.client import RegistryClient
from als.registry.endpoint import Credential, Endpoint, Tls
from als.registry.settings import Proxies, Settings
from als.registry.source import BlobStream, read_verified
from tests.registry.conftest import IMPATIENT
from tests.registry.servers import HttpServer, Reply, Request, make_certificate, serve_range

MakeClient = Callable[..., RegistryClient]
BLOB = random.Random(1).randbytes(300_000)
DIGEST = Digest.of(BLOB)
DOCUMENT = b'{"schemaVersion": 2}'


def drain(stream: BlobStream, amount: int = 1 << 16) -> bytes:
    data = b""
    with stream:
        while part := stream.read(amount):
            data += part
    return data


def in_turn(*replies: Reply | Callable[[Request], Reply]) -> Callable[[Request], Reply]:
    """Answers in this order; the last one stays."""
    left = list(replies)

    def respond(request: Request) -> Reply:
        reply = left.pop(0) if len(left) > 1 else left[0]
        return reply if isinstance(reply, Reply) else reply(request)

    return respond


def manifest(_: Request) -> Reply:
    return Reply(200, DOCUMENT, {"Content-Type": f"{OCI_MANIFEST}; charset=utf-8"})


def whole(_: Request) -> Reply:
    return Reply(200, BLOB)


def ranges(request: Request) -> Reply:
    return serve_range(request, BLOB)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_statuses_are_tried_again(status: int, make_client: MakeClient) -> None:
    with HttpServer(in_turn(Reply(status), Reply(status), manifest)) as server:
        raw = make_client(server.endpoint()).manifest("1")
        assert (raw.data, raw.media_type) == (DOCUMENT, OCI_MANIFEST)
        assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "error"), [(400, RegistryError), (404, NotFound), (405, RegistryError), (501, RegistryError)]
)
def test_final_statuses_are_not(status: int, error: type[Exception], make_client: MakeClient) -> None:
    with HttpServer(in_turn(Reply(status), manifest)) as server:
        with pytest.raises(error) as caught:
            make_client(server.endpoint()).manifest("1")
        assert not isinstance(caught.value, RegistryUnavailable)
        assert server.address in str(caught.value)
        assert len(server.seen) == 1


def test_gives_up_and_says_everything(make_client: MakeClient) -> None:
    with HttpServer(in_turn(Reply(503))) as server:
        with pytest.raises(RegistryUnavailable) as caught:
            make_client(server.endpoint()).blob(DIGEST)
        assert caught.value.temporary
        for part in (server.address, "team/app", str(DIGEST), "503", f"attempts made: {IMPATIENT.attempts}"):
            assert part in str(caught.value)
        assert len(server.seen) == IMPATIENT.attempts


def test_retry_after_is_kept(make_client: MakeClient) -> None:
    with HttpServer(in_turn(Reply(429, headers={"Retry-After": "1"}), manifest)) as server:
        start = time.monotonic()
        make_client(server.endpoint()).manifest("1")
        assert time.monotonic() - start >= 1


def test_retry_after_beyond_the_deadline_ends_it(make_client: MakeClient) -> None:
    with HttpServer(in_turn(Reply(503, headers={"Retry-After": "3600"}))) as server:
        with pytest.raises(RegistryUnavailable):
            make_client(server.endpoint()).manifest("1")
        assert len(server.seen) == 1


def test_nobody_listens(make_client: MakeClient) -> None:
    with HttpServer(whole) as server:
        endpoint = server.endpoint()
    with pytest.raises(RegistryUnavailable, match="refused"):
        make_client(endpoint).manifest("1")


def test_silence_ends_at_the_read_timeout(make_client: MakeClient) -> None:
    def silent(request: Request) -> Reply:
        return Reply(200, b"x", {"Content-Length": "1000"})

    settings = dataclasses.replace(IMPATIENT, read_timeout=0.2, attempts=2)
    with HttpServer(silent) as server, pytest.raises(RegistryUnavailable):
        drain(make_client(server.endpoint(), settings=settings).blob(DIGEST))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.one_of(st.integers(0, 20), st.integers(0, len(BLOB))), max_size=2),
    offset=st.integers(0, len(BLOB)),
    length=st.one_of(st.none(), st.integers(0, len(BLOB))),
    honest=st.booleans(),
)
def test_cut_at_any_byte(cuts: list[int], offset: int, length: int | None, honest: bool, make_client: MakeClient) -> None:
    """Whether the server honours ranges or sends everything each time, the bytes come out right."""

    def cut_at(position: int) -> Callable[[Request], Reply]:
        def respond(request: Request) -> Reply:
            reply = ranges(request) if honest else whole(request)
            return dataclasses.replace(reply, cut=min(position, len(reply.body)))

        return respond

    with HttpServer(in_turn(*map(cut_at, cuts), ranges if honest else whole)) as server:
        expected = BLOB[offset : None if length is None else offset + length]
        assert drain(make_client(server.endpoint()).blob(DIGEST, offset=offset, length=length)) == expected


def test_short_ranges_are_continued(make_client: MakeClient) -> None:
    def short(request: Request) -> Reply:
        first = int(request.headers["range"].removeprefix("bytes=").partition("-")[0])
        part = BLOB[first : first + 100_000]
        return Reply(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(BLOB)}"})

    with HttpServer(short) as server:
        assert drain(make_client(server.endpoint()).blob(DIGEST, offset=1)) == BLOB[1:]


def test_no_progress_ends_it(make_client: MakeClient) -> None:
    """A server that gives one byte per connection is not asked three hundred thousand times."""
    with HttpServer(lambda request: dataclasses.replace(ranges(request), cut=1)) as server:
        with pytest.raises(RegistryUnavailable) as caught:
            drain(make_client(server.endpoint()).blob(DIGEST))
        assert "bytes" in str(caught.value) and str(DIGEST) in str(caught.value)
        assert len(server.seen) <= IMPATIENT.attempts + 1


def test_size_unknown_until_the_end(make_client: MakeClient) -> None:
    with HttpServer(lambda _: Reply(200, BLOB, chunked=True)) as server:
        client = make_client(server.endpoint())
        stream = client.blob(DIGEST)
        assert stream.size is None
        assert drain(stream) == BLOB
        assert drain(client.blob(DIGEST, offset=5, length=7)) == BLOB[5:12]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(206, BLOB[6:], {"Content-Range": f"bytes 6-{len(BLOB) - 1}/{len(BLOB)}"}),
        Reply(206, BLOB[5:]),
        Reply(206, BLOB[5:], {"Content-Range": "bytes 5-4/10"}),
        Reply(206, BLOB[5:], {"Content-Range": "bytes 5-9999999999999999999999/*"}),
        Reply(206, b"--x", {"Content-Type": "multipart/byteranges; boundary=x"}),
        Reply(200, BLOB, {"Content-Encoding": "gzip"}),
        Reply(416, b"", {"Content-Range": f"bytes */{len(BLOB)}"}),
        Reply(416, b"", {"Content-Range": "bytes */3"}),
        Reply(200, BLOB[:4]),
    ],
)
def test_wrong_ranges_are_refused(reply: Reply, make_client: MakeClient) -> None:
    with HttpServer(in_turn(reply)) as server, pytest.raises(RegistryError) as caught:
        drain(make_client(server.endpoint()).blob(DIGEST, offset=5))
    assert str(DIGEST) in str(caught.value)


def test_size_that_changes_is_refused(make_client: MakeClient) -> None:
    changed = Reply(206, BLOB[100:200], {"Content-Range": "bytes 100-199/200"})
    with HttpServer(in_turn(Reply(200, BLOB, cut=100), changed)) as server, pytest.raises(RegistryError, match="size changed"):
        drain(make_client(server.endpoint()).blob(DIGEST))


def test_wrong_bytes(make_client: MakeClient) -> None:
    with HttpServer(manifest) as server:
        client = make_client(server.endpoint())
        with pytest.raises(DigestMismatch):
            client.manifest(str(DIGEST))
        with pytest.raises(DigestMismatch):
            read_verified(client, DIGEST, 1 << 20)
    stated = Reply(200, DOCUMENT, {"Docker-Content-Digest": str(DIGEST)})
    with HttpServer(in_turn(stated)) as server, pytest.raises(DigestMismatch):
        make_client(server.endpoint()).manifest("1")


def test_manifest_is_bounded_and_whole(make_client: MakeClient) -> None:
    with HttpServer(in_turn(Reply(200, b" " * ((4 << 20) + 1)))) as server, pytest.raises(RegistryError, match="more than"):
        make_client(server.endpoint()).manifest("1")
    with HttpServer(in_turn(Reply(200, DOCUMENT, cut=5), manifest)) as server:
        assert make_client(server.endpoint()).manifest("1").data == DOCUMENT
        assert len(server.seen) == 2


def test_redirects(make_client: MakeClient) -> None:
    """Relative and absolute ones are followed; loops, other schemes and TLS to plain HTTP are not."""
    with HttpServer(in_turn(Reply(302, b"", {"Location": "/elsewhere"}), whole)) as server:
        assert drain(make_client(server.endpoint()).blob(DIGEST)) == BLOB
        assert server.paths() == [f"/v2/team/app/blobs/{DIGEST}", "/elsewhere"]
    for location in ("/v2/", "file:///etc/passwd", "http://[::1", "ftp://x/y", "http:///x"):
        with HttpServer(in_turn(Reply(301, b"", {"Location": location}))) as server, pytest.raises(RegistryError):
            make_client(server.endpoint()).blob(DIGEST)
        assert len(server.seen) <= 10


def test_tls_is_not_left(tmp_path: Path, make_client: MakeClient) -> None:
    """Neither a redirect nor a token server takes us from TLS to plain HTTP, unless the registry is insecure anyway."""
    authority = make_certificate(tmp_path, "authority")
    own = make_certificate(tmp_path, "server", authority=authority, host="127.0.0.1")
    with HttpServer(whole, "127.0.0.2") as other:
        challenge = Reply(401, b"", {"WWW-Authenticate": f'Bearer realm="http://{other.address}/token"'})
        redirect = Reply(307, b"", {"Location": f"http://{other.address}/x"})
        for reply in (redirect, challenge):
            with HttpServer(in_turn(reply), certificate=own) as server:
                endpoint = Endpoint(server.address, "team/app", tls=Tls((Path(f"{authority}.crt").read_text(),)))
                with pytest.raises(RegistryError, match="TLS"):
                    make_client(dataclasses.replace(endpoint, credential=Credential("user", "secret"))).blob(DIGEST)
                assert len(server.seen) == 1
        assert other.seen == []
        with HttpServer(in_turn(redirect), certificate=own) as server:
            assert drain(make_client(server.endpoint()).blob(DIGEST)) == BLOB


def test_certificate_of_another_host(tmp_path: Path, make_client: MakeClient) -> None:
    """A certificate of the right authority that names another host is none."""
    authority = make_certificate(tmp_path, "authority")
    own = make_certificate(tmp_path, "server", authority=authority, host="127.0.0.1")
    tls = Tls((Path(f"{authority}.crt").read_text(),))
    with HttpServer(whole, certificate=own) as server:
        assert drain(make_client(Endpoint(server.address, "team/app", tls=tls)).blob(DIGEST)) == BLOB
    with HttpServer(whole, "127.0.0.2", certificate=own) as server:
        with pytest.raises(RegistryError, match="TLS"):
            make_client(Endpoint(server.address, "team/app", tls=tls)).blob(DIGEST)
        assert server.seen == []


def test_credentials_do_not_come_back(make_client: MakeClient) -> None:
    """A way that leads from the registry to another host and back again is anonymous from the first step away."""
    with HttpServer(lambda _: Reply(302, b"", {"Location": f"http://{server.address}/back"}), "127.0.0.2") as other:

        def registry(request: Request) -> Reply:
            if request.path == "/back":
                return whole(request)
            if "authorization" not in request.headers:
                return Reply(401, b"", {"WWW-Authenticate": "Basic"})
            return Reply(302, b"", {"Location": f"http://{other.address}/there"})

        with HttpServer(registry) as server:
            endpoint = dataclasses.replace(server.endpoint(), credential=Credential("user", "secret"))
            assert drain(make_client(endpoint).blob(DIGEST)) == BLOB
            assert ["authorization" in request.headers for request in server.seen] == [False, True, False]
        assert ["authorization" in request.headers for request in other.seen] == [False]


def test_other_hosts_challenge_gets_nothing(make_client: MakeClient) -> None:
    """A host that we are redirected to cannot ask for the registry's credential."""
    asking = Reply(401, b"", {"WWW-Authenticate": 'Basic realm="give"'})
    with HttpServer(in_turn(asking), "127.0.0.2") as other:
        redirect = Reply(307, b"", {"Location": f"http://{other.address}/x?signature=abc"})
        with HttpServer(in_turn(redirect)) as server:
            endpoint = dataclasses.replace(server.endpoint(), credential=Credential("user", "secret"))
            with pytest.raises(RegistryDenied) as caught:
                make_client(endpoint).blob(DIGEST)
            assert "abc" not in str(caught.value)
        assert [request.headers.get("authorization") for request in other.seen] == [None]


def test_challenge_only_on_ping(make_client: MakeClient) -> None:
    """A registry whose 401 names no way in is asked for one at /v2/."""

    def registry(request: Request) -> Reply:
        if request.path == "/v2/":
            return Reply(401, b"", {"WWW-Authenticate": "Basic realm=x"})
        return manifest(request) if "authorization" in request.headers else Reply(401)

    with HttpServer(registry) as server:
        endpoint = dataclasses.replace(server.endpoint(), credential=Credential("user", "secret"))
        assert make_client(endpoint).manifest("1").data == DOCUMENT


def test_identity_token_and_renewal_on_403(make_client: MakeClient) -> None:
    """An OAuth2 refresh token goes to the token server only, and a token that gets a 403 is replaced once."""
    issued: list[str] = []

    def tokens(request: Request) -> Reply:
        assert request.method == "POST" and b"refresh_token=very-secret" in request.body
        issued.append(f"token{len(issued)}")
        return Reply(200, b'{"access_token": "%s", "expires_in": 900}' % issued[-1].encode())

    with HttpServer(tokens, "127.0.0.2") as server2:
        valid = "Bearer token0"

        def registry(request: Request) -> Reply:
            given = request.headers.get("authorization")
            if given == valid:
                return manifest(request)
            ask = {
                "WWW-Authenticate": f'Bearer realm="http://{server2.address}/t",service="a, b",scope="repository:team/app:pull"'
            }
            return Reply(403) if given else Reply(401, b"", ask)

        with HttpServer(registry) as server:
            endpoint = dataclasses.replace(server.endpoint(), credential=Credential(identity_token="very-secret"))
            client = make_client(endpoint)
            client.manifest("1")
            valid = "Bearer token1"
            client.manifest("1")
            valid = "none will do"
            with pytest.raises(RegistryDenied):
                client.manifest("1")
            assert all("very-secret" not in request.text for request in server.seen)
    assert issued == ["token0", "token1", "token2"]


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a b"}', b'{"token": "a\\r\\nX: y"}', b"x" * (2 << 20)]
)
def test_bad_token_answers(answer: bytes, make_client: MakeClient) -> None:
    with HttpServer(in_turn(Reply(200, answer)), "127.0.0.2") as tokens:
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{tokens.address}/t"'}
        with HttpServer(in_turn(Reply(401, b"", challenge))) as server, pytest.raises(RegistryError):
            make_client(server.endpoint()).manifest("1")


def test_proxy_from_the_environment(make_client: MakeClient) -> None:
    """The proxy gets its own credential, and the request for the registry that it stands before."""
    with HttpServer(manifest) as proxy:
        proxies = Proxies(http=f"http://who:what@{proxy.address}", https=f"http://who:what@{proxy.address}")
        settings = dataclasses.replace(IMPATIENT, proxies=proxies)
        endpoint = Endpoint("registry.example:5000", "team/app", insecure=True)
        assert make_client(endpoint, settings=settings).manifest("1").data == DOCUMENT
        request = proxy.seen[-1]
        assert request.path == "http://registry.example:5000/v2/team/app/manifests/1"
        assert request.headers["proxy-authorization"] == "Basic d2hvOndoYXQ="
    assert "what" not in repr(settings)
    assert Settings.from_json(settings.to_json()) == settings


def test_closing_ends_the_waiting() -> None:
    def close(_: Request) -> Reply:
        client.close()
        return Reply(503, headers={"Retry-After": "15"})

    with HttpServer(close) as server:
        client = RegistryClient([server.endpoint()], settings=Settings())
        start = time.monotonic()
        with pytest.raises(RegistryUnavailable, match="closed"):
            client.manifest("1")
        assert time.monotonic() - start < 10
