"""Real podman with the mirror before its registry: what is fetched, what is written, and that pulls never depend on it."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.disk import bytes_on_disk
from tests.harness.images import ImageFactory
from tests.harness.lease import let_an_hour_pass
from tests.harness.ocilayout import EPOCH, Layout, TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.system import run, wait_until
from tests.mirror.conftest import SUITES, MirrorStack, binaries
from tests.mirror.registries import TroubledRegistry
from tests.registry_e2e.conftest import HTPASSWD, encoded

FILES = 200
FILE_BYTES = 100_000


def noise(seed: int, size: int = 100_000) -> bytes:
    return random.Random(seed).randbytes(size)


def push(stack: MirrorStack, images: ImageFactory, tag: str, *options: str) -> str:
    """Push an image to a repository of this stack's own; its reference there."""
    return stack.registry.push(images.layout.name(tag), f"{stack.podman.base.parent.name}/{tag}:1", *options)


def reads(stack: MirrorStack, reference: str, path: str, text: str) -> None:
    """See that a container has this line in a file; by its exit status, as a busy machine loses output of short-lived ones."""
    stack.podman.run(reference, "sh", "-c", 'test "$(cat "$1")" = "$2"', "sh", path, text)


def pulled(stack: MirrorStack, reference: str, *layers: str) -> None:
    """Pull, and see that each layer's blob left the registry once, for als; none for podman."""
    begun = len(stack.registry.requests())
    stack.podman.pull(reference)
    fetched = [digest for digest in stack.blobs_fetched(begun) if digest in layers]
    assert sorted(fetched) == sorted(layers)
    assert stack.podman.own_layers() == []


def test_a_plain_pull_fetches_each_layer_once(stack: MirrorStack, images: ImageFactory) -> None:
    layers = images.runnable("plain", [TarBuilder().file("marker", b"here\n").file("noise", noise(1)).build()])
    reference = push(stack, images, "plain")
    pulled(stack, reference, *(layer.digest for layer in layers))
    reads(stack, reference, "/marker", "here")
    asked = len(stack.registry.requests())
    reads(stack, reference, "/marker", "here")
    assert len(stack.registry.requests()) == asked, "a second run asks nobody"
    images.runnable("plain", [TarBuilder().file("marker", b"new\n").build()])
    push(stack, images, "plain")
    stack.podman.pull(reference)
    reads(stack, reference, "/marker", "new")


def test_an_update_writes_what_is_new(stack: MirrorStack, images: ImageFactory) -> None:
    """95 % of the files in common, and no layer."""

    def tar(seeds: list[int], mtime: int) -> bytes:
        builder = TarBuilder(mtime)
        for number, seed in enumerate(seeds):
            builder.file(f"data/{number}", noise(seed, FILE_BYTES))
        return builder.build()

    first, second = list(range(1000, 1000 + FILES)), list(range(1000, 1000 + FILES))
    second[: FILES // 20] = range(9000, 9000 + FILES // 20)
    images.runnable("before", [tar(first, EPOCH)])
    layers = images.runnable("after", [tar(second, EPOCH + 1)])
    stack.podman.pull(push(stack, images, "before"))
    places = (stack.als.root, stack.podman.graph_root)
    before = bytes_on_disk(*places)
    reference = push(stack, images, "after")
    pulled(stack, reference, layers[1].digest)
    written = bytes_on_disk(*places) - before
    assert written < 1.5 * FILE_BYTES * FILES // 20, f"{written} bytes for {FILES // 20} new files of {FILE_BYTES}"
    digest = hashlib.sha256(noise(second[0], FILE_BYTES)).hexdigest()
    stack.podman.run(reference, "sh", "-c", f'test "$(sha256sum </data/0)" = "{digest}  -"')


def test_images_of_every_build(stack: MirrorStack, images: ImageFactory) -> None:
    """A layer listed twice, one without entries, many layers, Docker's schema 2, several platforms: all run."""
    marker = images.layout.add_layer(TarBuilder().file("marker", b"here\n").build())
    empty = images.layout.add_layer(TarBuilder().build())
    images.layout.add_image("twice", [images.base, marker, images.base, marker])
    images.layout.add_image("empty", [images.base, empty, marker, empty])
    images.tower("tower", 120)
    images.runnable("docker", [TarBuilder().file("marker", b"here\n").build()], compression="gzip")
    options = {"docker": ("--format", "v2s2")}
    expected = {"twice": "here", "empty": "here", "docker": "here", "tower": "119"}
    for tag, text in expected.items():
        name = "/stack/top" if tag == "tower" else "/marker"
        if tag in options:
            # skopeo changes the manifest, so it cannot keep the digest.
            reference = f"{stack.registry.address}/{stack.podman.base.parent.name}/{tag}:1"
            run("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *options[tag],
                images.layout.name(tag), f"docker://{reference}")  # fmt: skip
        else:
            reference = push(stack, images, tag)
        stack.podman.pull(reference)
        reads(stack, reference, name, text)
    assert stack.podman.own_layers() == []


def test_an_index_of_platforms(stack: MirrorStack, images: ImageFactory) -> None:
    images.runnable("own", [TarBuilder().file("marker", b"own\n").build()])
    images.scratch("foreign", [TarBuilder().file("marker", b"foreign\n").build()])
    path = images.layout.folder / "index.json"
    listed = {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry for entry in json.loads(path.read_bytes())["manifests"]
    }
    own = stack.podman.json("info", "--format", "json")["host"]["arch"]
    both = [("foreign", "s390x"), ("own", own)]
    manifests = [
        {
            **{key: listed[tag][key] for key in ("mediaType", "digest", "size")},
            "platform": {"os": "linux", "architecture": arch},
        }
        for tag, arch in both
    ]
    folder = images.layout.folder.parent / f"multi-{stack.podman.base.parent.name}"
    shutil.copytree(images.layout.folder, folder)
    multi = Layout(folder)
    document = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    digest, size = multi.add_blob(json.dumps(document).encode())
    entry = {"mediaType": document["mediaType"], "digest": digest, "size": size}
    (folder / "index.json").write_text(json.dumps({**document, "manifests": [entry]}))
    reference = stack.registry.push(f"oci:{folder}", f"{stack.podman.base.parent.name}/multi:1", "--all")
    pulled(
        stack,
        reference,
        *(layer["digest"] for layer in json.loads(multi.blob(listed["own"]["digest"]).read_bytes())["layers"][1:]),
    )
    reads(stack, reference, "/marker", "own")
    assert reference in stack.als.cli("images").stdout.decode()


def test_podmans_own_record_keeps_the_layers(stack: MirrorStack, images: ImageFactory) -> None:
    """Ours is good for an hour; what podman has stays as long as it has it."""
    name = stack.podman.base.parent.name
    images.runnable("kept", [TarBuilder().file("marker", f"kept by {name}\n".encode()).build()])
    reference = push(stack, images, "kept")
    stack.podman.pull(reference)

    def gc_in_an_hour() -> bool:
        """Whether als has the image then."""
        let_an_hour_pass(stack.als.root)
        stack.als.cli("gc")
        return reference in stack.als.cli("images").stdout.decode()

    assert gc_in_an_hour()
    reads(stack, reference, "/marker", f"kept by {name}")
    stack.podman("rmi", reference)
    assert not gc_in_an_hour()
    stack.podman.pull(reference)
    reads(stack, reference, "/marker", f"kept by {name}")


def test_a_broken_store_keeps_nobody_from_pulling(stack: MirrorStack, images: ImageFactory) -> None:
    name = stack.podman.base.parent.name
    images.scratch("broken", [TarBuilder().file("marker", f"pulled by {name}\n".encode()).build()])
    reference = push(stack, images, "broken")
    folder = stack.als.root / "tmp"
    kept = folder.rename(folder.with_name("kept"))
    folder.write_bytes(b"")
    try:
        stack.podman.pull(reference)
        with stack.podman.mounted(reference) as root:
            assert (root / "marker").read_text() == f"pulled by {name}\n"
        assert len(stack.podman.own_layers()) == 1
    finally:
        folder.unlink()
        kept.rename(folder)


@pytest.fixture(params=SUITES)
def private(as_root: None, module_dir: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MirrorStack]:
    """A stack whose registry wants a password, which root has."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    options = {"auth": {"htpasswd": {"realm": "here", "path": str(tmp_path / "htpasswd")}}}
    suite: str = request.param
    with (
        RegistryServer(tmp_path / "registry", options) as registry,
        MirrorStack(module_dir / f"p{suite[0]}", registry, binaries(suite)) as running,
    ):
        auth = {"auths": {registry.address: {"auth": encoded("user")}}}
        (running.podman.base / "auth.json").write_text(json.dumps(auth))
        yield running


def test_roots_credentials_are_used_for_root(private: MirrorStack, images: ImageFactory) -> None:
    (layer,) = images.scratch("private", [TarBuilder().file("marker", b"secret\n").build()])
    password = base64.b64decode(encoded("user")).decode()
    reference = private.registry.push(images.layout.name("private"), "private:1", "--dest-creds", password)
    pulled(private, reference, layer.digest)
    assert private.podman.layers(reference) == [layer.diff_id]


class TestKilled:
    """The daemon is killed, at some point of a pull: podman goes on without."""

    @pytest.fixture(params=SUITES)
    def held(self, as_root: None, tmp_path: Path, module_dir: Path, request: pytest.FixtureRequest) -> Iterator[MirrorStack]:
        suite: str = request.param
        with TroubledRegistry(Layout(tmp_path / "images")) as registry:
            stack = MirrorStack(module_dir / f"k{suite[0]}{len(list(module_dir.iterdir()))}", registry, binaries(suite))
            with stack:
                yield stack

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_while_layers_are_fetched(self, held: MirrorStack, tmp_path: Path, number: int) -> None:
        layout, registry = Layout(tmp_path / "images"), held.registry
        assert isinstance(registry, TroubledRegistry)
        layers = [layout.add_layer(TarBuilder().file(f"f{n}", noise(n)).build()) for n in range(3)]
        layout.add_image("t", layers)
        gate = registry.hold(layers[number].digest)
        with held.podman.start("pull", "-q", f"{registry.address}/name:t") as client:
            wait_until(lambda: layers[number].digest in registry.blobs_asked(), "the layer is being fetched")
            held.als.stop(signal.SIGKILL)
            gate.set()
            assert client.wait(60) == 0, client.stderr.read() if client.stderr else ""
        assert len(held.podman.layers(f"{registry.address}/name:t")) == 3
        held.als.start()
        assert held.als.cli("fsck").returncode == 0

    def test_while_blobs_are_passed_on(self, held: MirrorStack, tmp_path: Path) -> None:
        """The manifest was answered, so podman waits for a blob from the mirror when that dies."""
        layout, registry = Layout(tmp_path / "images"), held.registry
        assert isinstance(registry, TroubledRegistry)
        layer = layout.add_layer(TarBuilder().file("f", noise(1)).build())
        image = layout.add_image("t", [layer])
        config = json.loads(layout.blob(image.digest).read_bytes())["config"]["digest"]
        gate = registry.hold(config)
        folder = held.als.root / "images"
        folder.rmdir()
        folder.write_bytes(b"")  # So that the configuration is not the store's.
        with held.podman.start("pull", "-q", f"{registry.address}/name:t") as client:
            wait_until(lambda: config in registry.blobs_asked(), "the configuration is being passed on")
            held.als.stop(signal.SIGKILL)
            gate.set()
            assert client.wait(60) == 0, client.stderr.read() if client.stderr else ""
        folder.unlink()
        folder.mkdir()
