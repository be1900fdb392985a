"""What CRI-O uses stays in the store, whether CRI-O runs or not; what it has let go of is freed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.crio.conftest import Node
from tests.harness.crio import SLEEP


@pytest.fixture
def pulled(node: Node, image: str) -> Iterator[str]:
    """An image that CRI-O has, and that als itself holds no longer. In the end neither has anything of it."""
    node.als.cli("pull", "-q", image)
    node.crio.pull(image)
    told = node.als.cli("rm", image).stdout.decode()
    assert f"image {image} of {node.crio.graph_root}" in told
    yield image
    clean_up(node, image)


def clean_up(node: Node, image: str) -> None:
    """CRI-O lets go of the image, and everything is freed."""
    node.crio.wipe_pods()
    remove_image(node, image)
    gc(node)
    assert is_empty(node)


def gc(node: Node) -> Any:
    return node.als.json("gc")


def is_empty(node: Node) -> bool:
    """Nothing is left of any image."""
    root = node.als.root
    left = [path for name in ("layers", "images", "refs", "tmp") for path in (root / name).iterdir()]
    left += [path for path in (root / "objects").rglob("*") if path.is_file()]
    left += [path for path in (node.image_store / "overlay").iterdir() if path.name != "l"]
    left += [*(node.image_store / "overlay" / "l").iterdir(), *(node.image_store / "overlay-layers").glob("*.tar-split.gz")]
    listed = json.loads((node.image_store / "overlay-layers" / "layers.json").read_bytes())
    assert (left, listed) == ([], [])
    return True


def remove_image(node: Node, image: str) -> None:
    """What kubelet does to an image when it makes room.

    containers/storage forgets the image, and then stumbles over the layer that is not its own to remove.
    """
    done = node.crio("rmi", image, status=None)
    assert done.returncode == 0 or b"desc = layer not known" in done.stderr
    assert image not in node.crio.images()


def test_an_image_goes_after_its_last_container(node: Node, pulled: str) -> None:
    container = node.crio.container(node.crio.pod(), pulled, *SLEEP)
    assert b"in use by a container" in node.crio("rmi", pulled, status=1).stderr
    assert gc(node)["layers"] == []
    node.crio("stop", "-t", "0", container)
    assert gc(node)["layers"] == [], "a container that has ended"
    node.crio.wipe_pods()
    assert gc(node)["layers"] == [], "an image without containers"
    node.crio.container(node.crio.pod(), pulled, *SLEEP)
    assert gc(node)["layers"] == []


def test_a_stopped_crio_loses_nothing(node: Node, pulled: str) -> None:
    with node.crio.stopped():
        assert gc(node)["layers"] == [], "an image without containers"
    container = node.crio.container(node.crio.pod(), pulled, *SLEEP)
    with node.crio.stopped():
        assert gc(node)["layers"] == []
    assert node.crio.exec(container, "cat", "/srv/link") == "a-stopped-crio-loses-nothing"


@pytest.mark.parametrize("apart", [False, True], ids=["one-root", "images-apart"])
def test_a_root_that_only_crio_conf_names_is_asked(node: Node, image: str, apart: bool) -> None:
    usual = node.crio.storage
    node.restart(replace(usual, own_options=True, images_apart=apart))
    try:
        node.als.cli("pull", "-q", image)
        node.crio.pull(image)
        node.als.cli("rm", image)
        # Nothing was seen there before: it is crio.conf that tells.
        (node.als.root / "clients.json").unlink(missing_ok=True)
        assert gc(node)["layers"] == []
        container = node.crio.container(node.crio.pod(), image, *SLEEP)
        assert node.crio.exec(container, "cat", "/srv/name").startswith("a-root-that-only-crio-conf-names-is-asked")
        clean_up(node, image)
    finally:
        node.restart(usual)


def test_another_version_of_crio_gets_its_images_back_for_nothing(node: Node, image: str) -> None:
    """After an upgrade CRI-O removes all pods and images by itself; kubelet then pulls again."""
    node.als.cli("pull", "-q", image)
    node.crio.pull(image)
    node.crio.container(node.crio.pod(), image, *SLEEP)
    with node.crio.stopped():
        node.crio.version_file.write_text('"1.2.3"', "utf-8")
    assert image not in node.crio.own_images()
    assert node.crio.json("pods")["items"] == []
    assert gc(node)["layers"] == []
    before = len(node.registry.requests())
    node.crio.pull(image)
    assert len(node.blobs_since(before)) <= 1
    node.crio.container(node.crio.pod(), image, *SLEEP)
    node.als.cli("rm", image)
    clean_up(node, image)


def test_what_als_pull_brought_needs_no_pull(node: Node, image: str) -> None:
    """The store lists it; CRI-O cannot remove it, though it says so."""
    node.als.cli("pull", "-q", image)
    before = len(node.registry.requests())
    assert image in node.crio.images() and image not in node.crio.own_images()
    container = node.crio.container(node.crio.pod(), image, *SLEEP)
    assert node.crio.exec(container, "cat", "/srv/name") == "what-als-pull-brought-needs-no-pull"
    assert node.registry.requests()[before:] == []
    assert b"Deleted" in node.crio("rmi", image).stdout
    assert image in node.crio.images()
    node.als.cli("rm", image)
    assert image not in node.crio.images()
    assert gc(node)["layers"] == [], "the container is still there"
    assert node.crio.exec(container, "cat", "/srv/link") == "what-als-pull-brought-needs-no-pull"
    node.crio.wipe_pods()
    gc(node)
    assert is_empty(node)


def test_why_internal_repair_has_to_be_off(node: Node, image: str) -> None:
    """After a kill, containers/storage takes every container on an additional image store for damaged.

    Its check looks for the parents of a container's layer before it has read the additional stores, the repair fails, and
    CRI-O removes its whole storage. If this test fails, that was mended, and docs/crio.md and `als doctor` can drop it.
    """
    node.als.cli("pull", "-q", image)
    node.crio.pull(image)
    container = node.crio.container(node.crio.pod(), image, *SLEEP)
    usual = node.crio.storage
    node.restart(replace(usual, internal_repair=True))
    assert node.crio.state(container) == "CONTAINER_RUNNING", "an orderly end is no problem"
    before = len(node.crio.log_text())
    node.crio.stop(signal.SIGKILL)
    node.crio.start()
    said = node.crio.log_text()[before:]
    assert "Attempting to repair storage" in said and "Wiping storage" in said
    assert node.crio.json("ps")["containers"] == []
    # Nothing of the store's is lost by it.
    assert gc(node)["layers"] == []
    node.als.cli("fsck")
    node.restart(usual)
    node.crio.pull(image)
    node.crio.container(node.crio.pod("later"), image, *SLEEP)
