"""``als pull`` from real registries that ask who one is: from podman's files, through the worker, into the store."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.ocilayout import Image
from tests.harness.registry import RegistryServer
from tests.harness.system import wait_until
from tests.registry.servers import HttpServer, Reply, Request, TokenIssuer, make_certificate
from tests.registry_e2e.conftest import PASSWORD, Client, MakeRegistry, encoded
from tests.registry_e2e.fronts import Line, passing_on

BASIC = f"Basic {encoded('user')}"


def sent(server: HttpServer) -> set[str]:
    """Every authorization that a server was shown."""
    return {request.headers["authorization"] for request in server.seen if "authorization" in request.headers}


@pytest.fixture
def basic(registry_like: MakeRegistry, basic_options: dict[str, object], image: Image) -> Iterator[HttpServer]:
    """A registry that wants a password, behind a server that remembers what it was sent."""
    with HttpServer(passing_on(registry_like(basic_options).address)) as front:
        yield front


def test_basic(client: Client, image: Image, basic: HttpServer) -> None:
    client.registries("", basic.address)
    client.auths({basic.address: "user"})
    client.pulled(f"{basic.address}/team/app:1", image)
    assert sent(basic) == {BASIC}
    assert len([request for request in basic.seen if "authorization" not in request.headers]) == 1


@pytest.mark.parametrize("auths", [{}, {"HOST": "nobody"}, {"other.example": "user"}])
def test_denied(client: Client, basic: HttpServer, auths: dict[str, str]) -> None:
    client.registries("", basic.address)
    client.auths({key.replace("HOST", basic.address): user for key, user in auths.items()})
    done = client.pull(f"{basic.address}/team/app:1", status=4)
    assert b"podman login" in done.stderr
    assert basic.address.encode() in done.stderr
    assert BASIC not in sent(basic)
    assert client.als.json("images") == []


def test_each_repository_its_own(client: Client, image: Image, basic: HttpServer) -> None:
    client.registries("", basic.address)
    client.auths({f"{basic.address}/team/app": "user", f"{basic.address}/team": "other", basic.address: "nobody"})
    client.pulled(f"{basic.address}/team/app:1", image)
    client.pull(f"{basic.address}/team/other:1")
    seen = {(request.path.split("/")[3], request.headers.get("authorization")) for request in basic.seen}
    with_password = {pair for pair in seen if pair[1] is not None}
    assert with_password == {("app", BASIC), ("other", f"Basic {encoded('other')}")}


def test_a_credential_helper(client: Client, image: Image, basic: HttpServer, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    helper = folder / "docker-credential-test"
    helper.write_text(
        f'#!/bin/sh\nread server\necho "$1 $server" >>"{tmp_path}/asked"\n'
        f'[ "$server" = "{basic.address}" ] || {{ echo credentials not found in native keychain; exit 1; }}\n'
        f'echo \'{{"ServerURL": "x", "Username": "user", "Secret": "{PASSWORD}"}}\'\n'
    )
    helper.chmod(0o755)
    client.als.environment["PATH"] = f"{folder}:/usr/bin:/bin"
    client.registries("", basic.address)
    client.auths({}, credHelpers={basic.address: "test"})
    client.pulled(f"{basic.address}/team/app:1", image)
    assert sent(basic) == {BASIC}
    assert (tmp_path / "asked").read_text().splitlines() == [f"get {basic.address}"]


def test_tokens_that_live_five_seconds(client: Client, image: Image, registry_like: MakeRegistry, tmp_path: Path) -> None:
    """The pull lasts longer. The registry never sees a token that has expired, and the token server alone the password."""
    signer = make_certificate(tmp_path, "signer")
    issuer = TokenIssuer(signer, 5, 5, ("user", PASSWORD))
    with HttpServer(issuer.respond, "127.0.0.2") as tokens:
        token = {
            "realm": f"http://{tokens.address}/token",
            "service": issuer.service,
            "issuer": issuer.issuer,
            "rootcertbundle": f"{signer}.crt",
        }
        server = registry_like({"auth": {"token": token}})
        with HttpServer(passing_on(server.address)) as front, Line(front.address, 150_000) as line:
            client.registries("", line.address)
            client.auths({line.address: "user"})
            client.pulled(f"{line.address}/team/app:1", image)
            authorizations = {request.headers.get("authorization", "") for request in front.seen}
        assert len(tokens.seen) >= 2, "the pull was over before the first token was"
        assert [status for _, _, status in server.requests()].count(401) == 1
        assert all(request.headers["authorization"] == BASIC for request in tokens.seen)
        assert all("scope=repository%3Ateam%2Fapp%3Apull" in request.path for request in tokens.seen)
        assert len(authorizations - {""}) == len(tokens.seen)
        assert not any(text.startswith("Basic") for text in authorizations)


def test_tls_with_a_private_authority(client: Client, image: Image, registry_like: MakeRegistry, tmp_path: Path) -> None:
    """And with a certificate of our own, both from certs.d; without them there is no way in, and no plain HTTP."""
    authority = make_certificate(tmp_path, "authority")
    own = make_certificate(tmp_path, "server", authority=authority, host="127.0.0.1")
    tls = {"certificate": f"{own}.crt", "key": f"{own}.key", "clientcas": [f"{authority}.crt"]}
    server = registry_like({"http": {"tls": tls}})
    reference = f"{server.address}/team/app:1"
    done = client.pull(reference, status=4)
    assert b"certs.d" in done.stderr
    folder = client.home / ".config/containers/certs.d" / server.address
    folder.mkdir(parents=True)
    # A bundle as distributions have them: many authorities, more than a packet between two processes may hold.
    bundle = Path(f"{authority}.crt").read_text() * 300
    (folder / "ca.crt").write_text(bundle)
    assert len(bundle) > 300_000
    client.pull(reference, status=4)
    mine = make_certificate(folder, "client", authority=authority)
    Path(f"{mine}.crt").rename(folder / "client.cert")
    client.pulled(reference, image)


def test_a_redirect_to_another_host(
    client: Client, image: Image, registry_like: MakeRegistry, basic_options: dict[str, object], plain: RegistryServer
) -> None:
    """The registry sends blobs from elsewhere; whoever serves them does not learn our password."""

    def storage(request: Request) -> Reply:
        path = plain.folder / "storage" / request.path.lstrip("/")
        return Reply(200, path.read_bytes()) if path.is_file() else Reply(404)

    with HttpServer(storage, "127.0.0.2") as elsewhere:
        redirect = {"name": "redirect", "options": {"baseurl": f"http://{elsewhere.address}/"}}
        server = registry_like({**basic_options, "middleware": {"storage": [redirect]}})
        client.registries("", server.address)
        client.auths({server.address: "user"})
        client.pulled(f"{server.address}/team/app:1", image)
        assert {status for method, path, status in server.requests() if "/blobs/" in path} == {307}
        assert len(elsewhere.seen) == len(image.layers) + 1
        assert not any(PASSWORD in request.text or encoded("user") in request.text for request in elsewhere.seen)
        assert sent(elsewhere) == set()


def test_a_mirror_does_not_learn_the_registrys_password(client: Client, image: Image, basic: HttpServer) -> None:
    with HttpServer(lambda request: Reply(401, b"{}", {"WWW-Authenticate": "Basic realm=give"}), "127.0.0.2") as mirror:
        client.registries(
            f'[[registry]]\nprefix = "registry.example/team"\nlocation = "{basic.address}/team"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror.address}/team"\ninsecure = true\n'
        )
        client.auths({basic.address: "user", "registry.example": "other"})
        client.pulled("registry.example/team/app:1", image)
        assert mirror.seen
        assert sent(mirror) == set()
    assert sent(basic) == {BASIC}


def test_a_token_server_of_another_host_gets_only_what_it_is_due(client: Client, image: Image) -> None:
    """A registry may name any token server, which is how tokens work; a redirect of that server takes nothing along."""
    with (
        HttpServer(lambda request: Reply(200, b'{"token": "x"}'), "127.0.0.3") as thief,
        HttpServer(lambda request: Reply(302, b"", {"Location": f"http://{thief.address}/"}), "127.0.0.2") as tokens,
        HttpServer(
            lambda request: Reply(401, b"", {"WWW-Authenticate": f'Bearer realm="http://{tokens.address}/t",service="s"'})
        ) as server,
    ):
        client.registries("", server.address)
        client.auths({server.address: "user"})
        client.pull(f"{server.address}/team/app:1", status=4)
        wait_until(lambda: bool(tokens.seen), "the token server was asked")
        assert thief.seen == []
        assert base64.b64decode(tokens.seen[0].headers["authorization"].removeprefix("Basic ")) == b"user:let-me-in"
        assert not any("authorization" in request.headers for request in server.seen)
