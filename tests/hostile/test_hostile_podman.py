"""One image cannot have its layers run in another: real podman 4 on a store that an attacker's images were pulled into."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.images import ImageFactory
from tests.harness.ocilayout import LayerBlob, TarBuilder
from tests.harness.podman import Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack


@pytest.fixture(scope="module")
def images(module_dir: Path) -> ImageFactory:
    return ImageFactory(module_dir / "oci")


@pytest.fixture(scope="module")
def registry(module_dir: Path) -> Iterator[RegistryServer]:
    with RegistryServer(module_dir / "registry") as running:
        yield running


@pytest.fixture
def place(module_dir: Path) -> Path:
    """A folder of the test's own with a short path: podman waits long for a socket whose name does not fit."""
    return module_dir / f"p{len(list(module_dir.iterdir()))}"


@pytest.fixture
def stack(as_root: None, place: Path, registry: RegistryServer) -> Iterator[Stack]:
    with Stack(place, registry) as running:
        yield running


@pytest.fixture
def plain(stack: Stack, place: Path) -> Iterator[Podman]:
    """A podman that knows the image store alone: it goes by what that lists, and nobody asks als."""
    storage = Storage((), (stack.als.image_store,), insecure=(stack.registry.address,))
    with Podman(place / "q", storage) as podman:
        yield podman


def layer(images: ImageFactory, text: str) -> tuple[bytes, LayerBlob]:
    """A layer with a file of our own, as its stream and as its blob."""
    tar = TarBuilder().directory("srv").file("srv/text", f"{text} content\n".encode() * 500).build()
    return tar, images.layout.add_layer(tar)


def push(stack: Stack, images: ImageFactory, name: str, *upper: LayerBlob) -> str:
    """An image in the registry: something to run, and layers on top."""
    images.layout.add_image(name, [images.base, *upper])
    return stack.registry.push(images.layout.name(name), f"{name}:latest")


def text_of(podman: Podman, reference: str) -> set[str]:
    """What a container sees in our file, each line once."""
    return set(podman.run(reference, "cat", "/srv/text").splitlines())


def by_blob(stack: Stack, blob: LayerBlob) -> list[str]:
    """The DiffIDs that the image store lists under a blob's digest."""
    entries = json.loads((stack.als.image_store / "overlay-layers" / "layers.json").read_bytes())
    return [entry["diff-digest"] for entry in entries if entry.get("compressed-diff-digest") == blob.digest]


def test_a_popular_blob_beside_a_stranger_s_diff_id(stack: Stack, plain: Podman, images: ImageFactory) -> None:
    """Whoever looks for the blob in the image store's list must not find the attacker's layer: podman 4 compares nothing."""
    (_, good), (_, evil) = layer(images, "honest"), layer(images, "wicked")
    honest = push(stack, images, "honest", good)
    first = push(stack, images, "wicked", evil)
    # In a place of its own in the list: one that is taken already is not written again.
    below = images.layout.add_layer(TarBuilder().directory("opt").build())
    attack = push(stack, images, "attack", below, dataclasses.replace(good, diff_id=evil.diff_id))
    stack.als.cli("pull", first)
    failed = stack.als.cli("pull", attack, status=None)
    plain.pull(honest)
    assert text_of(plain, honest) == {"honest content"}
    said = failed.stderr.decode()
    assert failed.returncode != 0 and "Traceback" not in said
    assert all(word in said for word in (attack, good.digest, good.diff_id, evil.diff_id))
    assert by_blob(stack, good) == []
    stack.podman.pull(honest)
    assert text_of(stack.podman, honest) == {"honest content"}
    assert by_blob(stack, good) == [good.diff_id]
    stack.podman.pull(first)
    assert text_of(stack.podman, first) == {"wicked content"}, "nobody is kept from running that under its own name"
    # als leaves it to podman, which is free to take a layer for what its blob holds, but not for what the attacker says.
    stack.podman.pull(attack, status=None)
    assert text_of(stack.podman, honest) == {"honest content"}
    assert by_blob(stack, good) == [good.diff_id]
    assert stack.als.cli("fsck", "--deep").returncode == 0


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_an_honest_image_with_the_layer_in_another_blob(stack: Stack, images: ImageFactory, how: str) -> None:
    tar, first = layer(images, f"{how} one")
    digest, size = images.layout.add_blob(gzip.compress(tar, 1))
    again = dataclasses.replace(first, digest=digest, size=size) if how == "gzip" else images.layout.add_layer(tar, "zstd")
    assert again.digest != first.digest and again.diff_id == first.diff_id
    one, two = push(stack, images, f"{how}-one", first), push(stack, images, f"{how}-two", again)
    stack.podman.pull(one)
    before = {path: path.stat().st_ino for path in (stack.als.root / "objects").rglob("*") if path.is_file()}
    stack.podman.pull(two)
    assert text_of(stack.podman, two) == text_of(stack.podman, one) == {f"{how} one content"}
    assert {path: path.stat().st_ino for path in (stack.als.root / "objects").rglob("*") if path.is_file()} == before
    assert len(list((stack.als.root / "layers").iterdir())) == 2
    facts = stack.als.json("inspect", first.diff_id)
    assert facts["blobs"] == [first.digest, again.digest]
    assert stack.als.json("inspect", two)["layers"][1]["blob_verified"] is True
    asked = [path for method, path, _ in stack.registry.requests() if method == "GET" and again.digest in path]
    assert len(asked) == 1, "als has fetched it, to see what it holds; podman found it there"
    assert stack.als.cli("fsck", "--deep").returncode == 0
