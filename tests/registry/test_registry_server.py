"""The client against real docker-registry processes: anonymous, Basic, Bearer, TLS, mirrors."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from als.errors import BadReference, NotFound, RegistryDenied, RegistryError
from als.model.digest import Digest
from als.model.manifest import Manifest, parse_config, parse_manifest
from als.model.reference import parse_reference
from als.registry.client import RegistryClient
from als.registry.endpoint import Credential, Endpoint, Tls
from als.registry.environment import Environment
from als.registry.layout import OciLayout
from als.registry.resolve import resolve
from als.registry.source import read_verified
from als.registry.transport import USER_AGENT
from tests.harness.registry import RegistryServer
from tests.harness.system import run, wait_until
from tests.registry.servers import HttpServer, Reply, Request, TokenIssuer, make_certificate

MakeClient = Callable[..., RegistryClient]
# "let-me-in" under bcrypt, the only scheme that docker-registry takes.
HTPASSWD = "user:$2y$04$abcdefghijklmnopqrstuudxA/1BY5FxPYA69jUrJOJFmTyoe9T1a\n"
USER = Credential("user", "let-me-in")


@pytest.fixture(scope="module")
def image(registry_server: RegistryServer, fixtures_dir: Path) -> Manifest:
    """The image team/app:1 of the anonymous registry."""
    registry_server.push(f"oci:{fixtures_dir}/plain-gzip-tiny", "team/app:1")
    manifest = parse_manifest(OciLayout(fixtures_dir / "plain-gzip-tiny").manifest("tiny").data, None)
    assert isinstance(manifest, Manifest)
    return manifest


def endpoint_of(server: RegistryServer, repository: str = "team/app") -> Endpoint:
    return Endpoint(server.address, repository, insecure=True)


def check_image(client: RegistryClient, image: Manifest, layout: Path) -> None:
    """Everything that a pull reads, compared with the layout that was pushed."""
    raw = client.manifest("1")
    assert parse_manifest(raw.data, raw.media_type) == image
    again = client.manifest(str(raw.digest))
    assert again == raw
    assert len(parse_config(read_verified(client, image.config.digest, 1 << 20)).diff_ids) == len(image.layers)
    for layer in image.layers:
        assert read_verified(client, layer.digest, 1 << 30) == (layout / "blobs/sha256" / layer.digest.hex).read_bytes()


def test_anonymous(registry_server: RegistryServer, image: Manifest, fixtures_dir: Path, make_client: MakeClient) -> None:
    check_image(make_client(endpoint_of(registry_server)), image, fixtures_dir / "plain-gzip-tiny")
    assert USER_AGENT in registry_server.log


def test_ranges(registry_server: RegistryServer, image: Manifest, fixtures_dir: Path, make_client: MakeClient) -> None:
    client = make_client(endpoint_of(registry_server))
    layer = max(image.layers, key=lambda each: each.size)
    whole = (fixtures_dir / "plain-gzip-tiny/blobs/sha256" / layer.digest.hex).read_bytes()
    size = len(whole)
    cases = [(0, 1), (0, None), (1, 10), (size - 1, None), (size - 5, 100), (size // 2, 0), (size, None), (0, size + 10)]
    for offset, length in cases:
        with client.blob(layer.digest, offset=offset, length=length) as stream:
            parts = []
            while part := stream.read(777):
                parts.append(part)
            assert b"".join(parts) == whole[offset : None if length is None else offset + length]
            assert stream.size == (None if length == 0 else size)
            assert stream.read(1) == b""
    with pytest.raises(RegistryError, match="beyond"):
        client.blob(layer.digest, offset=size + 1)


def test_what_is_not_there(registry_server: RegistryServer, image: Manifest, make_client: MakeClient) -> None:
    client = make_client(endpoint_of(registry_server))
    missing = Digest.of(b"nothing has this digest")
    with pytest.raises(NotFound) as caught:
        client.manifest("no-such-tag")
    assert f"{registry_server.address}/team/app:no-such-tag" in str(caught.value)
    with pytest.raises(NotFound) as caught:
        client.blob(missing)
    assert f"{registry_server.address}/team/app@{missing}" in str(caught.value)
    for name in ("../../x", "", "a b", "x" * 129):
        with pytest.raises(BadReference):
            client.manifest(name)


def test_many_threads(registry_server: RegistryServer, image: Manifest, make_client: MakeClient) -> None:
    client = make_client(endpoint_of(registry_server))
    layer = image.layers[0]
    results: list[str] = []

    def read() -> None:
        for _ in range(5):
            results.append(hashlib.sha256(read_verified(client, layer.digest, 1 << 30)).hexdigest())

    threads = [threading.Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [layer.digest.hex] * 60


@pytest.fixture(scope="module")
def basic_server(module_dir: Path, fixtures_dir: Path, image: Manifest) -> Iterator[RegistryServer]:
    folder = module_dir / "basic"
    folder.mkdir()
    (folder / "htpasswd").write_text(HTPASSWD)
    auth = {"auth": {"htpasswd": {"realm": "here", "path": str(folder / "htpasswd")}}}
    with RegistryServer(folder, auth) as server:
        server.push(f"oci:{fixtures_dir}/plain-gzip-tiny", "team/app:1", f"--dest-creds={USER.username}:{USER.password}")
        yield server


def test_basic(basic_server: RegistryServer, image: Manifest, fixtures_dir: Path, make_client: MakeClient) -> None:
    endpoint = dataclasses.replace(endpoint_of(basic_server), credential=USER)
    before = len(basic_server.requests())
    check_image(make_client(endpoint), image, fixtures_dir / "plain-gzip-tiny")
    statuses = [status for _, _, status in basic_server.requests()[before:]]
    assert statuses.count(401) == 1, "once asked, the credential goes with every request"


def test_basic_denied(basic_server: RegistryServer, make_client: MakeClient) -> None:
    endpoint = endpoint_of(basic_server)
    wrong = dataclasses.replace(endpoint, credential=Credential("user", "guess-what"))
    for each in (endpoint, wrong):
        with pytest.raises(RegistryDenied, match="podman login") as caught:
            make_client(each).manifest("1")
        assert "guess-what" not in f"{caught.value!r} {caught.value} {each!r}"


def test_auth_file(basic_server: RegistryServer, environment: Environment, make_client: MakeClient) -> None:
    """From podman's own files to the pull: auth.json for a namespace, registries.conf for insecure."""
    (environment.root / "auth.json").write_text(
        json.dumps({"auths": {f"{basic_server.address}/team": {"auth": base64.b64encode(b"user:let-me-in").decode()}}})
    )
    conf = environment.root / "registries.conf"
    conf.write_text(f'[[registry]]\nlocation = "{basic_server.address}"\ninsecure = true\n')
    variables = {"REGISTRY_AUTH_FILE": f"{environment.root}/auth.json", "CONTAINERS_REGISTRIES_CONF": str(conf)}
    environment = dataclasses.replace(environment, variables=variables)
    endpoints = resolve(parse_reference(f"{basic_server.address}/team/app:1"), environment)
    restored = [Endpoint.from_json(json.loads(json.dumps(endpoint.to_json()))) for endpoint in endpoints]
    assert restored == list(endpoints)
    assert make_client(*restored).manifest("1").data


@pytest.fixture(scope="module")
def signer(module_dir: Path) -> Path:
    return make_certificate(module_dir, "signer")


class TokenSetup:
    """A registry that wants tokens (with the anonymous registry's storage), and its token server."""

    def __init__(self, issuer: TokenIssuer, storage: RegistryServer, folder: Path, certificate: Path) -> None:
        self.issuer = issuer
        self.tokens = HttpServer(issuer.respond, "127.0.0.2")
        realm = f"http://{self.tokens.address}/token?kept=yes"
        token = {"realm": realm, "service": issuer.service, "issuer": issuer.issuer, "rootcertbundle": f"{certificate}.crt"}
        same = {"storage": {"filesystem": {"rootdirectory": str(storage.folder / "storage")}}}
        self.registry = RegistryServer(folder, {"auth": {"token": token}, **same})

    def __enter__(self) -> TokenSetup:
        self.tokens.__enter__()
        self.registry.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.registry.stop()
        self.tokens.__exit__(None, None, None)

    def refusals(self) -> int:
        """How often the registry said 401."""
        return sum(status == 401 for _, _, status in self.registry.requests())


@pytest.fixture
def token_setup(
    tmp_path: Path, registry_server: RegistryServer, image: Manifest, signer: Path
) -> Iterator[Callable[..., TokenSetup]]:
    running: list[TokenSetup] = []

    def make(lifetime: float, stated: float, account: tuple[str, str] | None = None) -> TokenSetup:
        issuer = TokenIssuer(signer, lifetime, stated, account)
        running.append(TokenSetup(issuer, registry_server, tmp_path / "registry", signer).__enter__())
        return running[-1]

    yield make
    for setup in running:
        setup.__exit__()


def test_bearer_anonymous(
    token_setup: Callable[..., TokenSetup], image: Manifest, fixtures_dir: Path, make_client: MakeClient
) -> None:
    setup = token_setup(300, 300)
    check_image(make_client(endpoint_of(setup.registry)), image, fixtures_dir / "plain-gzip-tiny")
    assert setup.refusals() == 1
    (request,) = setup.tokens.seen
    assert "kept=yes" in request.path and "scope=repository%3Ateam%2Fapp%3Apull" in request.path
    assert "authorization" not in request.headers


def test_bearer_is_refreshed_before_it_expires(
    token_setup: Callable[..., TokenSetup], image: Manifest, make_client: MakeClient
) -> None:
    """Tokens live five seconds; the registry never sees one that has expired, and the password never."""
    setup = token_setup(5, 5, (USER.username, USER.password))
    client = make_client(dataclasses.replace(endpoint_of(setup.registry), credential=USER))

    def three_tokens() -> bool:
        client.manifest("1")
        return len(setup.tokens.seen) >= 3

    wait_until(three_tokens, "three tokens", 20)
    assert setup.refusals() == 1
    assert len({request.headers["authorization"] for request in setup.tokens.seen}) == 1


def test_bearer_refused_is_renewed_once(
    token_setup: Callable[..., TokenSetup], image: Manifest, make_client: MakeClient
) -> None:
    setup = token_setup(-100, 3000)
    client = make_client(endpoint_of(setup.registry))
    with pytest.raises(RegistryDenied):
        client.manifest("1")
    assert len(setup.tokens.seen) == 1, "a token just fetched is not fetched again"
    setup.issuer.lifetime = 300
    client.manifest("1")
    assert len(setup.tokens.seen) == 2, "one that had been kept is"


def test_bearer_denied(token_setup: Callable[..., TokenSetup], make_client: MakeClient) -> None:
    setup = token_setup(300, 300, (USER.username, USER.password))
    endpoint = dataclasses.replace(endpoint_of(setup.registry), credential=Credential("user", "guess-what"))
    with pytest.raises(RegistryDenied, match="podman login") as caught:
        make_client(endpoint).manifest("1")
    assert "guess-what" not in repr(caught.value)


@pytest.fixture(scope="module")
def authority(module_dir: Path) -> Path:
    return make_certificate(module_dir, "authority")


@pytest.fixture(scope="module")
def tls_server(module_dir: Path, registry_server: RegistryServer, image: Manifest, authority: Path) -> Iterator[RegistryServer]:
    """TLS by a private authority, and it wants to see a certificate of the client too."""
    own = make_certificate(module_dir, "server", authority=authority, host="127.0.0.1")
    tls = {"certificate": f"{own}.crt", "key": f"{own}.key", "clientcas": [f"{authority}.crt"]}
    same = {"storage": {"filesystem": {"rootdirectory": str(registry_server.folder / "storage")}}}
    with RegistryServer(module_dir / "tls", {"http": {"tls": tls}, **same}) as server:
        yield server


def test_tls_with_certs_d(
    tls_server: RegistryServer,
    authority: Path,
    image: Manifest,
    fixtures_dir: Path,
    environment: Environment,
    make_client: MakeClient,
) -> None:
    folder = environment.system(f"/etc/containers/certs.d/{tls_server.address}")
    folder.mkdir(parents=True)
    mine = make_certificate(folder, "client", authority=authority)
    Path(f"{mine}.crt").rename(folder / "client.cert")
    (folder / "ca.crt").write_bytes(Path(f"{authority}.crt").read_bytes())
    reference = parse_reference(f"{tls_server.address}/team/app:1")
    (endpoint,) = resolve(reference, environment)
    assert not endpoint.insecure
    assert "PRIVATE" not in repr(endpoint)
    check_image(make_client(endpoint), image, fixtures_dir / "plain-gzip-tiny")
    with pytest.raises(RegistryError):
        make_client(dataclasses.replace(endpoint, tls=Tls(endpoint.tls.authorities))).manifest("1")
    with pytest.raises(RegistryError, match=r"certs\.d"):
        make_client(dataclasses.replace(endpoint, tls=Tls())).manifest("1")
    check_image(
        make_client(dataclasses.replace(endpoint, tls=Tls((), endpoint.tls.client_certificates), insecure=True)),
        image,
        fixtures_dir / "plain-gzip-tiny",
    )


def test_no_plain_http_unless_insecure(registry_server: RegistryServer, make_client: MakeClient) -> None:
    before = len(registry_server.requests(greetings=True))
    with pytest.raises(RegistryError, match="insecure = true"):
        make_client(Endpoint(registry_server.address, "team/app")).manifest("1")
    assert len(registry_server.requests(greetings=True)) == before


def test_mirror_first_then_the_registry(
    registry_server: RegistryServer,
    basic_server: RegistryServer,
    image: Manifest,
    fixtures_dir: Path,
    environment: Environment,
    make_client: MakeClient,
) -> None:
    """A mirror that has the image is used for everything; one that has not, or is down, is passed over."""
    conf = environment.system("/etc/containers/registries.conf")
    conf.parent.mkdir(parents=True)
    conf.write_text(
        '[[registry]]\nprefix = "registry.example/apps"\n'
        f'location = "{basic_server.address}/team"\ninsecure = true\n'
        '[[registry.mirror]]\nlocation = "127.0.0.1:1/none"\ninsecure = true\n'
        f'[[registry.mirror]]\nlocation = "{registry_server.address}/team"\ninsecure = true\n'
    )
    endpoints = resolve(parse_reference("registry.example/apps/app:1"), environment)
    assert [endpoint.name for endpoint in endpoints] == [
        "127.0.0.1:1/none/app",
        f"{registry_server.address}/team/app",
        f"{basic_server.address}/team/app",
    ]
    before = len(basic_server.requests())
    check_image(make_client(*endpoints), image, fixtures_dir / "plain-gzip-tiny")
    assert len(basic_server.requests()) == before
    with pytest.raises(RegistryDenied) as caught:
        make_client(*endpoints).manifest("other")
    assert "mirrors failed too" in str(caught.value) and registry_server.address in str(caught.value)


def test_mirror_never_sees_the_registrys_credential(
    basic_server: RegistryServer,
    image: Manifest,
    fixtures_dir: Path,
    environment: Environment,
    make_client: MakeClient,
) -> None:
    """A mirror that asks for a password gets none that is meant for the registry behind it, which gets its own."""
    auth = environment.system("/run/containers/0/auth.json")
    auth.parent.mkdir(parents=True)
    secret = base64.b64encode(b"user:let-me-in").decode()
    auth.write_text(json.dumps({"auths": {basic_server.address: {"auth": secret}}}))
    with HttpServer(lambda _: Reply(401, b"", {"WWW-Authenticate": 'Basic realm="give"'}), "127.0.0.2") as mirror:
        conf = environment.system("/etc/containers/registries.conf")
        conf.parent.mkdir(parents=True)
        conf.write_text(
            f'[[registry]]\nlocation = "{basic_server.address}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror.address}"\ninsecure = true\n'
        )
        endpoints = resolve(parse_reference(f"{basic_server.address}/team/app:1"), environment)
        assert [endpoint.credential for endpoint in endpoints] == [None, USER]
        check_image(make_client(*endpoints), image, fixtures_dir / "plain-gzip-tiny")
        assert mirror.seen
        assert all(secret not in request.text and "authorization" not in request.headers for request in mirror.seen)


def test_redirect_never_carries_credentials(
    basic_server: RegistryServer, image: Manifest, fixtures_dir: Path, make_client: MakeClient
) -> None:
    """A registry that keeps its blobs elsewhere: the other host gets the request, and nothing that says who we are."""
    layout = fixtures_dir / "plain-gzip-tiny"
    raw = OciLayout(layout).manifest("tiny")
    expected = "Basic " + base64.b64encode(b"user:let-me-in").decode()

    def storage(request: Request) -> Reply:
        return Reply(200, (layout / "blobs/sha256" / request.path.partition("?")[0].rpartition(":")[2]).read_bytes())

    with HttpServer(storage, "127.0.0.2") as elsewhere:

        def registry(request: Request) -> Reply:
            if request.headers.get("authorization") != expected:
                return Reply(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
            if "/manifests/" in request.path:
                return Reply(200, raw.data, {"Content-Type": raw.media_type})
            return Reply(307, b"see there", {"Location": f"http://{elsewhere.address}/{request.path[-71:]}?signature=secret"})

        with HttpServer(registry) as server:
            endpoint = dataclasses.replace(server.endpoint(), credential=USER)
            check_image(make_client(endpoint), image, layout)
            assert expected in {request.headers.get("authorization") for request in server.seen}
        assert len(elsewhere.seen) == 1 + len(image.layers)
        for request in elsewhere.seen:
            assert "authorization" not in request.headers
            assert expected.split()[1] not in request.text and USER.password not in request.text


def test_openssl_is_the_one_we_think(tmp_path: Path) -> None:
    """The certificates of these tests are what they claim: the authority signs, the server is signed."""
    root = make_certificate(tmp_path, "root")
    leaf = make_certificate(tmp_path, "leaf", authority=root, host="127.0.0.1")
    run("openssl", "verify", "-CAfile", f"{root}.crt", f"{leaf}.crt")
