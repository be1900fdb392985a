"""The mirror of a service in this process, before a registry that counts what it is asked."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from als.config import Config
from als.errors import ConfigError
from als.mirror.serve import Mirror, open_mirror
from als.native.listeners import Listeners
from als.registry.host import host_platform
from als.service import Service
from als.service.removal import collect
from als.store.liveness import LEASE_SECONDS
from als.store.uptime import Uptime
from tests.harness.ocilayout import MANIFEST, REF_NAME, LayerBlob, Layout, TarBuilder
from tests.harness.policy import ExpectedLogs
from tests.harness.system import unmount_below, wait_until
from tests.mirror.asking import Asker
from tests.mirror.registries import ENCODED, TroubledRegistry

INDEX = "application/vnd.oci.image.index.v1+json"


def layer(number: int, size: int = 200_000) -> bytes:
    return TarBuilder().file(f"file-{number}", os.urandom(size)).build()


def add_tag(layout: Layout, tag: str, digest: str, size: int, media_type: str = MANIFEST) -> None:
    """List a manifest of any kind in the layout."""
    path = layout.folder / "index.json"
    index = json.loads(path.read_bytes())
    entry = {"mediaType": media_type, "digest": digest, "size": size, "annotations": {REF_NAME: tag}}
    path.write_text(json.dumps({**index, "manifests": [*index["manifests"], entry]}))


@pytest.fixture
def blobs(layout: Layout) -> list[LayerBlob]:
    """The layers of the image ``t``."""
    made = [layout.add_layer(layer(number)) for number in range(3)]
    layout.add_image("t", made)
    return made


def published(service: Service) -> list[str]:
    return [str(entry["compressed-diff-digest"]) for entry in service.composefs.published().values()]


def test_a_manifest_is_unchanged_and_its_layers_are_there(
    service: Service, layout: Layout, blobs: list[LayerBlob], registry: TroubledRegistry, ask: Asker
) -> None:
    got = ask("manifests/t")
    assert got.status == 200
    digest = got.headers["docker-content-digest"]
    assert got.body == layout.blob(digest).read_bytes()
    assert got.headers["content-type"] == "application/vnd.oci.image.manifest.v1+json"
    assert published(service) == [blob.digest for blob in blobs]
    ref = service.images.ref(f"{registry.address}/name:t")
    assert ref is not None
    assert (str(ref.digest), ref.asked) == (digest, False)
    asked = list(registry.asked)
    assert sorted(registry.blobs_asked()) == sorted({*registry.blobs_asked()}), "each blob was asked for once"

    config = json.loads(got.body)["config"]["digest"]
    blob = ask(f"blobs/{config}")
    assert (blob.status, blob.body) == (200, layout.blob(config).read_bytes())
    assert ask(f"manifests/{digest}").body == got.body
    assert registry.asked == asked, "what the store has by its digest is not asked for again"
    assert ask("manifests/t").body == got.body
    assert [path.rpartition("/")[2] for path in registry.asked[len(asked) :]] == ["t"], "a tag always is"


def test_a_moved_tag_is_followed(service: Service, layout: Layout, blobs: list[LayerBlob], ask: Asker) -> None:
    first = ask("manifests/t").headers["docker-content-digest"]
    new = layout.add_layer(layer(9))
    layout.add_image("t", [new])
    second = ask("manifests/t").headers["docker-content-digest"]
    assert second != first
    assert new.digest in published(service)


def test_an_index_is_passed_on_and_the_platform_is_the_clients_choice(
    service: Service, layout: Layout, registry: TroubledRegistry, ask: Asker
) -> None:
    own, other = layout.add_layer(layer(1)), layout.add_layer(layer(2))
    images = [layout.add_image("own", [own]), layout.add_image("other", [other])]
    architectures = [host_platform().architecture, "none-of-ours"]
    manifests = [
        {"mediaType": MANIFEST, "digest": image.digest, "size": image.size, "platform": {"os": "linux", "architecture": name}}
        for image, name in zip(images, architectures, strict=True)
    ]
    document = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
    digest, _ = layout.add_blob(document)
    add_tag(layout, "multi", digest, len(document), INDEX)
    got = ask("manifests/multi")
    assert got.body == document
    assert published(service) == []
    assert ask(f"manifests/{images[1].digest}").status == 200
    assert published(service) == [other.digest]
    assert ask(f"manifests/{images[0].digest}").status == 200
    assert sorted(published(service)) == sorted([own.digest, other.digest])
    # Ours has the name that led to it; another platform's does not take it away.
    refs = {ref.reference: str(ref.digest) for ref in service.images.refs()}
    name = f"{registry.address}/name"
    assert refs == {f"{name}:multi": images[0].digest, f"{name}@{images[1].digest}": images[1].digest}


def test_what_is_no_image_is_passed_on(service: Service, layout: Layout, registry: TroubledRegistry, ask: Asker) -> None:
    """Signatures that cosign keeps beside an image are manifests with a tag, whose layer is the signed text."""
    payload, size = layout.add_blob(b'{"critical": {}}')
    config, config_size = layout.add_blob(b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": payload, "size": size}],
    }
    digest, length = layout.add_blob(json.dumps(manifest).encode())
    add_tag(layout, "sha256-abc.sig", digest, length)
    assert json.loads(ask("manifests/sha256-abc.sig").body) == manifest
    assert ask(f"blobs/{payload}").body == b'{"critical": {}}'
    assert service.images.refs() == []
    assert ask("manifests/sha256-def.sig").status == 404


def test_a_media_type_that_is_none_is_not_passed_on(layout: Layout, registry: TroubledRegistry, ask: Asker) -> None:
    document = json.dumps({"schemaVersion": 2, "mediaType": "application/x\x0by"}).encode()
    digest, size = layout.add_blob(document)
    add_tag(layout, "odd", digest, size)
    got = ask("manifests/odd")
    assert (got.status, got.body) == (200, document)
    assert "content-type" not in got.headers


def test_blobs_are_passed_on_whole_and_in_parts(layout: Layout, registry: TroubledRegistry, ask: Asker) -> None:
    data = os.urandom(3_000_001)
    digest, _ = layout.add_blob(data)
    whole = ask(f"blobs/{digest}")
    assert (whole.status, whole.body, whole.headers["content-length"]) == (200, data, str(len(data)))
    rest = ask(f"blobs/{digest}", headers={"Range": "bytes=2000000-"})
    assert (rest.status, rest.body) == (206, data[2_000_000:])
    assert rest.headers["content-range"] == f"bytes 2000000-3000000/{len(data)}"
    middle = ask(f"blobs/{digest}", headers={"Range": "bytes=5-9"})
    assert (middle.status, middle.body) == (206, data[5:10])
    assert ask(f"blobs/{digest}", headers={"Range": "bytes=0-1,5-6"}).status == 400
    head = ask(f"blobs/{digest}", "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(data)))


def test_head_of_a_manifest_publishes_nothing(service: Service, blobs: list[LayerBlob], ask: Asker) -> None:
    got = ask("manifests/t", "HEAD")
    assert (got.status, got.body) == (200, b"")
    assert int(got.headers["content-length"]) > 100
    assert published(service) == []


@pytest.mark.parametrize(("says", "hears"), [(401, 403), (403, 403), (404, 404), (429, 503), (500, 503), (418, 502)])
def test_the_registrys_errors_send_the_client_there(registry: TroubledRegistry, ask: Asker, says: int, hears: int) -> None:
    registry.status = says
    assert ask("manifests/t").status == hears


def test_nobody_home(registry: TroubledRegistry, service: Service, ask: Asker) -> None:
    registry.stop()
    assert ask("manifests/t").status == 503


def test_a_blob_that_breaks_sends_the_next_try_to_the_registry(
    layout: Layout, blobs: list[LayerBlob], registry: TroubledRegistry, ask: Asker, expect_log: ExpectedLogs
) -> None:
    expect_log("cannot be passed on")
    digest, _ = layout.add_blob(os.urandom(500_000))
    registry.cut.add(digest)
    with pytest.raises(ConnectionError):
        ask(f"blobs/{digest}")
    got = ask("manifests/t")
    assert (got.status, got.code) == (503, "UNAVAILABLE")
    assert ask(f"blobs/{blobs[0].digest}").status == 200, "pulls that were begun go on"


def test_a_missing_blob_ends_the_connection(ask: Asker, expect_log: ExpectedLogs) -> None:
    """After an answer of 404 podman would give up; this way it begins anew."""
    expect_log("cannot be passed on")
    with pytest.raises(ConnectionError):
        ask("blobs/sha256:" + "0" * 64)


def test_a_layer_that_cannot_be_had_does_not_keep_the_manifest(
    service: Service, layout: Layout, blobs: list[LayerBlob], ask: Asker, expect_log: ExpectedLogs
) -> None:
    expect_log("is left to the client: .*other digest")
    path = layout.blob(blobs[1].digest)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert ask("manifests/t").status == 200
    assert blobs[1].digest not in published(service)


def break_images(service: Service) -> None:
    folder = service.layout.images
    folder.rmdir()
    folder.write_bytes(b"")


def break_layers(service: Service) -> None:
    service.layout.tmp.rmdir()


def break_lists(service: Service) -> None:
    (service.composefs.root / "overlay-layers" / "layers.json").write_text("[")


@pytest.mark.parametrize("breaks", [break_images, break_layers, break_lists])
def test_a_broken_store_passes_everything_on(
    service: Service,
    layout: Layout,
    blobs: list[LayerBlob],
    ask: Asker,
    expect_log: ExpectedLogs,
    breaks: Callable[[Service], None],
) -> None:
    expect_log("is left to the client")
    expect_log("is asked for at the registry")
    breaks(service)
    for _ in range(2):
        got = ask("manifests/t")
        assert got.status == 200
        manifest = json.loads(got.body)
        for each in (manifest["config"], *manifest["layers"]):
            assert ask(f"blobs/{each['digest']}").body == layout.blob(each["digest"]).read_bytes()


def test_many_ask_and_one_pulls(service: Service, blobs: list[LayerBlob], registry: TroubledRegistry, ask: Asker) -> None:
    gate = registry.hold(blobs[2].digest)
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(ask, "manifests/t") for _ in range(20)]
        wait_until(lambda: blobs[2].digest in registry.blobs_asked(), "the download has begun")
        assert not any(answer.done() for answer in answers)
        gate.set()
        assert {answer.result(30).status for answer in answers} == {200}
    assert [registry.blobs_asked().count(blob.digest) for blob in blobs] == [1, 1, 1]


def test_without_progress_the_manifest_is_answered(
    config: Config, layout: Layout, blobs: list[LayerBlob], registry: TroubledRegistry, as_root: None, expect_log: ExpectedLogs
) -> None:
    expect_log("answered before it is published: no progress for 1 seconds")
    expect_log("is left to the client")
    gate = registry.hold(blobs[1].digest)
    try:
        with (
            Service(dataclasses.replace(config, lookup_deadline=1.0)) as service,
            Mirror(service, config.mirror_port) as mirror,
        ):
            assert Asker(mirror.port, f"{registry.address.replace(':', '__')}/name")("manifests/t").status == 200
            gate.set()
            wait_until(lambda: os.listdir(service.layout.tmp) == [], "the pull has ended, well or not")
    finally:
        unmount_below(config.root)


class TestWho:
    """Whose requests are served, and with whose rights."""

    def test_users_get_what_is_open_to_all(self, blobs: list[LayerBlob], registry: TroubledRegistry, ask: Asker) -> None:
        assert ask.as_user(65534, "manifests/t").status == 200
        assert ask.as_user(65534, f"blobs/{blobs[0].digest}").status == 200

    def test_others_are_refused(self, blobs: list[LayerBlob], registry: TroubledRegistry, ask: Asker) -> None:
        got = ask.as_user(65532, "manifests/t")
        assert (got.status, got.code) == (403, "DENIED")
        assert ask.as_user(65532, f"blobs/{blobs[0].digest}").status == 403
        assert registry.asked == []

    def test_a_private_image_of_roots_is_not_handed_on(
        self, config: Config, blobs: list[LayerBlob], registry: TroubledRegistry, ask: Asker, expect_log: ExpectedLogs
    ) -> None:
        expect_log("cannot be passed on")
        registry.private = True
        auth = {"auths": {registry.address: {"auth": ENCODED}}}
        (config.root.parent / "auth.json").write_text(json.dumps(auth))
        got = ask("manifests/t")
        assert got.status == 200
        allowed = registry.allowed
        assert allowed >= len(blobs) + 2, "with root's credentials"
        config_digest = json.loads(got.body)["config"]["digest"]
        refused = ask.as_user(65534, "manifests/t")
        assert refused.status == 403
        assert ask.as_user(65534, f"manifests/{got.headers['docker-content-digest']}").status == 403
        for digest in (config_digest, blobs[0].digest):
            with pytest.raises(ConnectionError):
                ask.as_user(65534, f"blobs/{digest}")
        assert registry.allowed == allowed, "no request of the user's was made with root's credentials"
        assert ENCODED.encode() not in refused.body

    def test_only_our_own_name(self, ask: Asker) -> None:
        assert ask.raw("/v2/", headers={"Host": "127.0.0.1:1"}).status == 421
        assert ask("manifests/t", headers={"Host": f"rebound.example:{ask.port}"}).status == 421
        assert ask.raw("/v2/", headers={"Host": f"localhost:{ask.port}"}).status == 200

    def test_only_registries_that_registries_conf_sends_here(self, ask: Asker, registry: TroubledRegistry) -> None:
        for path in ("docker.io/library/busybox", registry.address.replace(":", "__"), f"{registry.address}/name"):
            assert ask.raw(f"/v2/{path}/manifests/t").status == 404
        assert registry.asked == []

    def test_only_reading(self, ask: Asker) -> None:
        assert ask("blobs/uploads/", "POST").status == 405
        assert ask("manifests/t", "DELETE").status == 405
        assert ask("tags/list").status == 404

    def test_als_itself_is_refused(self, ask: Asker) -> None:
        assert ask("manifests/t", headers={"User-Agent": "als/0.1.0"}).status == 403


def test_the_mirror_ends_with_its_thread(service: Service, config: Config, registry: TroubledRegistry) -> None:
    before = threading.active_count()
    with Mirror(service, config.mirror_port) as mirror:
        assert Asker(mirror.port, "x").raw("/v2/").status == 200
    assert not [thread for thread in threading.enumerate() if thread.name == "mirror"]
    assert threading.active_count() <= before + 3, "trio keeps idle worker threads for some seconds"


def test_what_a_client_was_told_of_is_held_for_an_hour(
    service: Service, blobs: list[LayerBlob], registry: TroubledRegistry, ask: Asker
) -> None:
    """Then its own records hold it; the administrator did not ask for it."""
    reference = f"{registry.address}/name:t"

    def age(seconds: float) -> None:
        (path,) = service.layout.refs.iterdir()
        before = dataclasses.replace(Uptime.now(), seconds=time.monotonic() - seconds)
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "renewed": before.to_json()}))

    assert ask("manifests/t").status == 200
    age(LEASE_SECONDS - 60)
    assert collect(service).images == ()
    assert ask("manifests/t").status == 200
    ref = service.images.ref(reference)
    assert ref is not None
    assert not ref.renewed.is_over(60, Uptime.now()), "asking again renews it"
    age(LEASE_SECONDS + 1)
    assert collect(service).images == (ref.digest,)
    assert (published(service), service.images.refs()) == ([], [])
    assert ask("manifests/t").status == 200
    assert published(service) == [blob.digest for blob in blobs]


def test_two_daemons_cannot_have_one_port(service: Service, mirror: Mirror) -> None:
    with pytest.raises(ConfigError, match="cannot listen"), Mirror(service, mirror.port):
        raise AssertionError


def test_only_root_can_listen_in_its_place(service: Service, expect_log: ExpectedLogs) -> None:
    assert 0 < Config().mirror_port < 1024
    expect_log("any user may listen on port")
    assert open_mirror(service, Listeners()) is not None
    assert [record.levelname for record in expect_log.records] == ["WARNING"], "the port of these tests is no such port"
