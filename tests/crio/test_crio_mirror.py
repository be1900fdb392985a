"""What kubelet does, with nothing beforehand: ordinary pulls of ordinary images through als's registry mirror."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.crio.conftest import Node
from tests.harness.crio import SLEEP
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import LayerBlob, TarBuilder

pytestmark = pytest.mark.usefixtures("pods")


@pytest.fixture(scope="module")
def mirrored(node: Node) -> Node:
    """With a CRI-O whose registries.conf names the mirror."""
    node.restart(replace(node.crio.storage, mirror_port=node.mirror_port))
    return node


def pull(node: Node, reference: str) -> Counter[str]:
    """Pull an image; how often the registry gave out each blob for that, to whomever."""
    before = len(node.registry.requests())
    node.crio.pull(reference)
    return Counter(node.blobs_since(before))


def push(node: Node, images: ImageFactory, tag: str, layers: list[LayerBlob]) -> str:
    images.layout.add_image(tag, layers)
    return node.registry.push(images.layout.name(tag), f"{tag}:latest")


def upper(name: str) -> bytes:
    return TarBuilder().directory("srv").file("srv/name", name.encode()).file("srv/large", name.encode() * 20_000).build()


def test_each_layer_is_fetched_once(mirrored: Node, images: ImageFactory) -> None:
    node = mirrored
    first = [images.base, images.layout.add_layer(upper("first"))]
    second = [images.base, images.layout.add_layer(upper("second"))]
    references = [push(node, images, tag, layers) for tag, layers in (("mirror-one", first), ("mirror-two", second))]
    fetched = pull(node, references[0])
    assert [fetched[layer.digest] for layer in first] == [1, 1]
    fetched = pull(node, references[1])
    assert [fetched[layer.digest] for layer in second] == [0, 1], "the base was here"
    assert node.crio.own_image_layers() == node.pause_layers
    pod = node.crio.pod()
    for reference, name in zip(references, ("first", "second"), strict=True):
        container = node.crio.container(pod, reference, *SLEEP, name=name)
        assert node.crio.exec(container, "cat", "/srv/name") == name
    assert set(node.crio.own_images()) >= set(references), "CRI-O's own, to be removed by kubelet"
    fetched = pull(node, references[0])
    assert not any(fetched[layer.digest] for layer in first)


def test_a_mirrored_image_goes_when_crio_lets_go(mirrored: Node, images: ImageFactory) -> None:
    node = mirrored
    layer = images.layout.add_layer(upper("goes"))
    reference = push(node, images, "mirror-goes", [images.base, layer])
    pull(node, reference)
    node.als.cli("rm", reference)
    assert node.als.json("gc")["layers"] == []
    assert b"layer not known" in node.crio("rmi", reference, status=None).stderr
    assert reference not in node.crio.images()
    assert node.als.json("gc")["layers"] == [layer.diff_id]


def test_without_the_daemon_crio_pulls_by_itself(mirrored: Node, images: ImageFactory) -> None:
    node = mirrored
    layer = images.layout.add_layer(upper("alone"))
    reference = push(node, images, "mirror-alone", [images.base, layer])
    node.als.stop()
    try:
        assert pull(node, reference)[layer.digest] == 1
        assert layer.diff_id in node.crio.own_image_layers()
        container = node.crio.container(node.crio.pod(), reference, *SLEEP)
        assert node.crio.exec(container, "cat", "/srv/name") == "alone"
    finally:
        node.als.start()
