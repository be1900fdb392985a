"""No secret in any line that a run leaves, whatever went wrong: passwords, tokens, signed URLs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness.ocilayout import Image
from tests.harness.registry import RegistryServer, registry_server
from tests.registry.servers import HttpServer, Reply, Request, TokenIssuer, make_certificate
from tests.registry_e2e.conftest import PASSWORD, Client, MakeRegistry, client, encoded, image, layout, plain, registry_like
from tests.registry_e2e.fronts import passing_on

__all__ = ["client", "image", "layout", "plain", "registry_like", "registry_server"]

SIGNATURE = "X-Amz-Signature=0123456789abcdef-the-signature"


def signed(upstream: str, storage: str) -> Callable[[Request], Reply]:
    """A registry whose blobs lie elsewhere, under URLs that give access to whoever has them."""
    pass_on = passing_on(upstream)

    def respond(request: Request) -> Reply:
        if "/blobs/" in request.path and request.method == "GET":
            return Reply(307, b"", {"Location": f"http://{storage}{request.path}?{SIGNATURE}"})
        return pass_on(request)

    return respond


class Storage:
    """Answers at first, and then less and less well."""

    def __init__(self, upstream: str) -> None:
        self._pass_on = passing_on(upstream)
        self.seen: list[str] = []
        self.status = 200

    def __call__(self, request: Request) -> Reply:
        self.seen.append(request.path)
        if self.status != 200:
            # Storage services tell in their errors what they were asked for.
            return Reply(self.status, f"<Error>bad request {request.path}</Error>".encode())
        return self._pass_on(replace(request, path=request.path.partition("?")[0]))


def everything(client: Client, output: bytes) -> str:
    """All that anybody can read afterwards: the daemon's log, what commands said, and every small file of the store."""
    kept = [path for path in client.als.root.rglob("*") if path.is_file() and path.stat().st_size < 100_000]
    kept += [path for path in client.als.run.rglob("*") if path.is_file()]
    return client.als.log_text() + output.decode() + "".join(path.read_text("utf-8", "replace") for path in kept)


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_signed_urls(client: Client, image: Image, plain: RegistryServer, status: int) -> None:
    storage = Storage(plain.address)
    storage.status = status
    with HttpServer(storage, "127.0.0.2") as elsewhere, HttpServer(signed(plain.address, elsewhere.address)) as front:
        client.registries("", front.address)
        client.als.configure(log_level="debug", lookup_deadline=5)
        client.als.start()
        done = client.als.cli("pull", "-q", f"{front.address}/team/app:1", status=None, deadline=90)
        assert (done.returncode == 0) == (status == 200)
        assert any(SIGNATURE in path for path in storage.seen), "the URL was used"
        text = everything(client, done.stdout + done.stderr)
    assert SIGNATURE not in text
    assert "the-signature" not in text


def test_passwords_and_tokens(
    client: Client, image: Image, registry_like: MakeRegistry, plain: RegistryServer, tmp_path: Path
) -> None:
    signer = make_certificate(tmp_path, "signer")
    issuer = TokenIssuer(signer, 60, 60, ("user", PASSWORD))
    with HttpServer(issuer.respond, "127.0.0.2") as tokens:
        realm = f"http://{tokens.address}/token"
        token = {"realm": realm, "service": issuer.service, "issuer": issuer.issuer, "rootcertbundle": f"{signer}.crt"}
        server = registry_like({"auth": {"token": token}})
        with HttpServer(passing_on(server.address)) as front:
            client.registries("", front.address)
            client.auths({front.address: "user"})
            client.als.configure(log_level="debug")
            client.als.start()
            done = client.als.cli("pull", "-q", f"{front.address}/team/app:1")
            wrong = client.als.cli("pull", "-q", f"{front.address}/team/not-there:1", status=None)
            given = {request.headers["authorization"] for request in front.seen if "authorization" in request.headers}
    text = everything(client, done.stdout + done.stderr + wrong.stdout + wrong.stderr)
    assert f"pulled {front.address}/team/app:1" in text
    assert given
    for secret in (PASSWORD, encoded("user"), *(each.split()[-1] for each in given)):
        assert secret not in text
