"""What real podman uses stays, what it has let go of goes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness.disk import bytes_on_disk
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.stack import Stack
from tests.harness.system import mounts_below

SLACK = 64 << 10
"""Folders do not shrink: those of objects/ keep the blocks that their entries once needed."""


@pytest.fixture
def pulled(stack: Stack, images: ImageFactory, request: pytest.FixtureRequest) -> str:
    """A runnable image, with a file of its own for each test."""
    tag = request.node.name.replace("test_", "").replace("_", "-")
    data = TarBuilder().directory("srv").file("srv/text", tag.encode() * 5000).build()
    images.runnable(tag, [data, TarBuilder().file("srv/more", b"more " * 100).build()])
    reference = stack.registry.push(images.layout.name(tag), f"{tag}:latest")
    stack.podman.pull(reference)
    return reference


def gc(stack: Stack, *options: str) -> Any:
    return stack.als.json("gc", *options)


def is_empty(stack: Stack) -> bool:
    """Nothing is left of any image."""
    root = stack.als.root
    listed = json.loads((stack.als.image_store / "overlay-layers" / "layers.json").read_bytes())
    left = [path for name in ("layers", "images", "refs", "tmp") for path in (root / name).iterdir()]
    left += [path for path in (root / "objects").rglob("*") if path.is_file()]
    left += [path for path in (stack.als.image_store / "overlay").iterdir() if path.name != "l"]
    left += list((stack.als.image_store / "overlay" / "l").iterdir())
    left += (stack.als.image_store / "overlay-layers").glob("*.tar-split.gz")
    erofs = [mount for mount in mounts_below(root) if mount.fstype == "erofs"]
    assert (listed, left, erofs) == ([], [], [])
    return True


def test_a_container_outlives_its_image(stack: Stack, pulled: str) -> None:
    podman = stack.podman
    container = podman.text("run", "-d", "--pull=never", pulled, "sleep", "1000")
    told = stack.als.cli("rm", pulled).stdout.decode()
    assert f"removed {pulled}" in told and f"image {pulled}" in told and str(podman.graph_root) in told
    assert stack.als.cli("images").stdout.decode().splitlines()[1:] == []
    for _ in range(2):
        assert gc(stack)["layers"] == []
        assert len(podman.text("exec", container, "cat", "/srv/text")) == len("a-container-outlives-its-image") * 5000
    podman("restart", "-t", "0", container)
    assert podman.text("exec", container, "wc", "-c", "/srv/more").split()[0] == "500"
    podman("rm", "-f", "-t", "0", container)
    assert gc(stack)["layers"] == [], "podman still has the image"
    podman("rmi", pulled)
    would = gc(stack, "--dry-run")
    assert len(would["layers"]) == 3 and not is_empty_now(stack)
    done = gc(stack)
    assert {**would, "dry_run": False} == done
    assert is_empty(stack)


def is_empty_now(stack: Stack) -> bool:
    return not any((stack.als.root / "layers").iterdir())


def test_everything_is_freed(stack: Stack, pulled: str) -> None:
    before = bytes_on_disk(stack.als.root)
    stack.als.cli("rm", pulled)
    stack.podman("rmi", pulled)
    freed = gc(stack)
    assert is_empty(stack)
    after = bytes_on_disk(stack.als.root)
    assert before - after >= freed["bytes"] > 0
    empty = type(stack.als)(stack.als.root.parent / "empty")
    empty.cli("images")
    assert after <= bytes_on_disk(empty.root) + SLACK


def test_an_image_built_on_top_keeps_its_base(stack: Stack, pulled: str) -> None:
    podman = stack.podman
    podman("run", "--name", "base", pulled, "sh", "-c", "echo new >/srv/new")
    podman("commit", "-q", "base", "localhost/built:1")
    podman("rm", "base")
    podman("rmi", pulled)
    stack.als.cli("rm", pulled)
    assert gc(stack)["layers"] == []
    seen = podman.run("localhost/built:1", "sh", "-c", "cat /srv/new; wc -c </srv/text; wc -c </srv/more")
    assert seen.split() == ["new", str(len("an-image-built-on-top-keeps-its-base") * 5000), "500"]
    podman("rmi", "localhost/built:1")
    gc(stack)
    assert is_empty(stack)


def test_a_reference_keeps_what_podman_has_removed(stack: Stack, pulled: str) -> None:
    stack.podman("rmi", pulled)
    assert gc(stack)["layers"] == []
    stack.podman.pull(pulled)
    assert stack.podman.run(pulled, "wc", "-c", "/srv/more").split()[0] == "500"
    stack.podman("rmi", pulled)
    stack.als.cli("rm", pulled)
    gc(stack)
    assert is_empty(stack)
    # And back again, from nothing.
    stack.podman.pull(pulled)
    assert stack.podman.run(pulled, "wc", "-c", "/srv/more").split()[0] == "500"
    stack.podman("rmi", pulled)
    stack.als.cli("rm", pulled)
    gc(stack)


def test_a_client_nobody_names_is_remembered(stack: Stack, pulled: str) -> None:
    """The environment does not tell of podman's graph root, but it was seen before."""
    stack.als.cli("rm", pulled)
    environment = dict(stack.als.environment)
    try:
        del stack.als.environment["CONTAINERS_STORAGE_CONF"]
        assert gc(stack)["layers"] == []
    finally:
        stack.als.environment.update(environment)
    stack.podman("rmi", pulled)
    gc(stack)
    assert is_empty(stack)


def test_what_cannot_be_asked_keeps_everything(stack: Stack, pulled: str) -> None:
    stack.als.cli("rm", pulled)
    stack.podman("rmi", pulled)
    listed = stack.podman.graph_root / "overlay-layers" / "layers.json"
    before = listed.read_bytes()
    listed.write_bytes(b"{")
    try:
        found = gc(stack)
        assert found["layers"] == [] and str(stack.podman.graph_root) in found["unknown"][0]
        assert "everything that is published stays" in stack.als.cli("gc").stderr.decode()
    finally:
        listed.write_bytes(before)
    assert len(gc(stack)["layers"]) == 3
    assert is_empty(stack)


def test_unknown_images_are_said_to_be(stack: Stack) -> None:
    assert b"no such image" in stack.als.cli("rm", "localhost/never:1", status=3).stderr
