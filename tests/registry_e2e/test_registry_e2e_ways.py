"""``als pull`` by other ways than the straight one, and over ways that break."""

from __future__ import annotations

import dataclasses
import threading

from als.registry.environment import Environment
from als.registry.settings import Proxies
from tests.harness.ocilayout import Image
from tests.harness.registry import RegistryServer
from tests.harness.system import Completed, wait_until
from tests.registry.servers import HttpServer, Reply, Request
from tests.registry_e2e.conftest import LAYERS, Client, MakeRegistry
from tests.registry_e2e.fronts import Line, passing_on


def mirrored(server: str, mirror: str, more: str = "") -> str:
    """A registries.conf with one registry and one mirror, under a name that exists nowhere."""
    return (
        f'[[registry]]\nprefix = "registry.example/team"\nlocation = "{server}/team"\ninsecure = true\n{more}'
        f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
    )


def test_a_mirror_that_has_it(client: Client, image: Image, plain: RegistryServer) -> None:
    with HttpServer(lambda request: Reply(500)) as server:
        client.registries(mirrored(server.address, f"{plain.address}/team"))
        client.pulled("registry.example/team/app:1", image)
        assert server.seen == []


def test_a_mirror_that_lacks_it(client: Client, image: Image, plain: RegistryServer) -> None:
    with HttpServer(lambda request: Reply(404)) as mirror:
        client.registries(mirrored(plain.address, f"{mirror.address}/team"))
        client.pulled("registry.example/team/app:1", image)
        assert {request.path for request in mirror.seen} >= {"/v2/team/app/manifests/1"}


def test_a_mirror_that_lacks_a_layer(client: Client, image: Image, plain: RegistryServer) -> None:
    """What it has is taken from it, the rest from the registry."""
    missing = image.layers[3].digest
    pass_on = passing_on(plain.address)

    def respond(request: Request) -> Reply:
        return Reply(404) if request.path.endswith(missing) else pass_on(request)

    with HttpServer(respond) as mirror, HttpServer(pass_on) as server:
        client.registries(mirrored(server.address, f"{mirror.address}/team"))
        client.pulled("registry.example/team/app:1", image)
        assert server.paths() == [f"/v2/team/app/blobs/{missing}"]


def test_a_mirror_that_lies(client: Client, image: Image, plain: RegistryServer) -> None:
    """A manifest asked for by digest is checked where it arrives: the mirror is passed over."""
    with HttpServer(lambda request: Reply(200, b"{}")) as mirror:
        client.registries(mirrored(plain.address, f"{mirror.address}/team"))
        client.pulled(f"registry.example/team/app@{image.digest}", image)
        assert mirror.seen


def test_nobody_has_it(client: Client, plain: RegistryServer, image: Image) -> None:
    client.registries("", plain.address)
    assert b"team/app:none" in client.pull(f"{plain.address}/team/app:none", status=3).stderr


def test_a_blocked_registry(client: Client, plain: RegistryServer, image: Image) -> None:
    before = len(plain.requests())
    client.registries(f'[[registry]]\nlocation = "{plain.address}"\ninsecure = true\nblocked = true\n')
    assert b"blocked" in client.pull(f"{plain.address}/team/app:1", status=4).stderr
    assert len(plain.requests()) == before


def test_the_proxy_of_the_environment(client: Client, image: Image, plain: RegistryServer) -> None:
    """A host that only the proxy knows. The names are looked up there, and the proxy's password goes to it alone."""
    with HttpServer(passing_on(plain.address)) as proxy:
        client.als.environment["HTTP_PROXY"] = f"http://who:what@{proxy.address}"
        client.als.environment["HTTPS_PROXY"] = "http://127.0.0.1:1"
        client.registries("", "registry.example")
        client.pulled("registry.example/team/app:1", image)
        assert all(request.path.startswith("http://registry.example/v2/") for request in proxy.seen)
        assert {request.headers["proxy-authorization"] for request in proxy.seen} == {"Basic d2hvOndoYXQ="}
    variables = {"HTTP_PROXY": "http://who:what@x"}
    assert "what" not in repr(Proxies.from_environment(dataclasses.replace(Environment.current(), variables=variables)))


def test_a_registry_that_dies_and_comes_back(
    client: Client, image: Image, plain: RegistryServer, registry_like: MakeRegistry
) -> None:
    """What has arrived of a blob is not fetched again."""
    server = registry_like({})
    with Line(server.address, 400_000) as line:
        client.registries("", line.address)
        done: list[Completed] = []
        thread = threading.Thread(target=lambda: done.append(client.pull(f"{line.address}/team/app:1")), daemon=True)
        thread.start()
        wait_until(lambda: line.carried > 500_000, "the pull is under way")
        server.stop()
        line.cut()
        again = registry_like({})
        line.upstream = again.address
        thread.join(90)
        assert done, "the pull did not survive"
        assert done[0].stdout.decode().split() == [image.digest]
    ranges = [path for method, path, status in again.requests() if status == 206]
    assert 1 <= len(ranges) <= LAYERS
    assert client.als.json("images")[0]["state"] == "sealed"


def test_a_busy_registry(client: Client, image: Image, plain: RegistryServer) -> None:
    """Every path is refused once, with a time to come back."""
    pass_on = passing_on(plain.address)
    refused: set[str] = set()

    def respond(request: Request) -> Reply:
        if request.path in refused:
            return pass_on(request)
        refused.add(request.path)
        return Reply(429 if "/blobs/" in request.path else 503, b"", {"Retry-After": "1"})

    with HttpServer(respond) as server:
        client.registries("", server.address)
        client.pulled(f"{server.address}/team/app:1", image)
        assert len(server.seen) == 2 * (LAYERS + 2)


def test_retry_after_that_makes_no_sense(client: Client, image: Image, plain: RegistryServer) -> None:
    pass_on = passing_on(plain.address)
    nonsense = ["Wed, 21 Oct 2026 07:28:999999999999999999999999999999", "-1", "x", "9" * 5000]
    left = list(nonsense[:3])

    def respond(request: Request) -> Reply:
        return Reply(429, b"", {"Retry-After": left.pop()}) if left else pass_on(request)

    with HttpServer(respond) as server:
        client.registries("", server.address)
        client.pulled(f"{server.address}/team/app:1", image)


def test_wrong_bytes(client: Client, image: Image, plain: RegistryServer) -> None:
    """Of a layer, of the config, of the manifest: each is found, named, and nothing of the image is published."""
    pass_on = passing_on(plain.address)
    wrong = ""

    def respond(request: Request) -> Reply:
        reply = pass_on(request)
        return dataclasses.replace(reply, body=reply.body[::-1]) if request.path.endswith(wrong) else reply

    with HttpServer(respond) as server:
        client.registries("", server.address)
        config = next(
            path.rpartition("/")[2]
            for path in plain_paths(plain)
            if "/blobs/sha256:" in path and path.rpartition("/")[2] not in {layer.digest for layer in image.layers}
        )
        for wrong in (image.layers[-1].digest, config, image.digest):
            done = client.pull(f"{server.address}/team/app@{image.digest}", status=5)
            assert wrong.encode() in done.stderr
            assert client.als.json("images") == []
        wrong = "nothing"
        client.pulled(f"{server.address}/team/app@{image.digest}", image)


def plain_paths(plain: RegistryServer) -> list[str]:
    return [path for method, path, _ in plain.requests() if method == "GET"]


def test_silence(client: Client, plain: RegistryServer, image: Image) -> None:
    """A registry that says nothing: the pull ends, in its own time."""
    (client.base / "als.toml").write_text("lookup_deadline = 2\n")
    with Line(plain.address, 1) as line:
        client.registries("", line.address)
        options = ("--config", client.base / "als.toml")
        done = client.als.cli(*options, "pull", "-q", f"{line.address}/team/app:1", status=4, deadline=60)
        assert b"2 seconds" in done.stderr
