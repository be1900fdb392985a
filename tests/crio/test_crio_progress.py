"""How long CRI-O waits for an answer: what a registry, and als's mirror in front of it, may take its time for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.crio.conftest import Node
from tests.harness.gated import GatedRegistry
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder

TIMEOUT = 1.0
TIMED_OUT = f"Timed out on waiting up to {TIMEOUT:.0f}s for image pull progress"


@pytest.fixture(scope="module")
def gated(images: ImageFactory) -> Iterator[GatedRegistry]:
    with GatedRegistry(images.layout) as server:
        yield server


@pytest.fixture(scope="module")
def impatient(node: Node, gated: GatedRegistry) -> Node:
    """With a limit, which by default there is not."""
    node.restart(
        replace(node.crio.storage, insecure=(gated.address, node.registry.address), pull_progress_timeout=f"{TIMEOUT:.0f}s")
    )
    return node


def test_a_manifest_may_take_as_long_as_it_likes(impatient: Node, gated: GatedRegistry, images: ImageFactory) -> None:
    """The clock of pull_progress_timeout starts with the first blob, so publishing before the manifest is answered is safe."""
    layer = images.layout.add_layer(TarBuilder().file("one", b"1" * 100_000).build())
    gate = gated.hold(images.layout.add_image("slow", [layer]).digest)
    pull = impatient.crio.begin("pull", f"{gated.address}/slow:slow")
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            pull.wait(3 * TIMEOUT)
    finally:
        gate.set()
    _, said = pull.communicate(timeout=30)
    assert pull.returncode == 0, said


def test_a_blob_may_not(impatient: Node, gated: GatedRegistry, images: ImageFactory) -> None:
    layer = images.scratch("stuck", [TarBuilder().file("three", bytes(range(256)) * 1000).build()])[0]
    gate = gated.hold(layer.digest)
    try:
        pull = impatient.crio.begin("pull", f"{gated.address}/stuck:stuck")
        _, said = pull.communicate(timeout=30)
        assert pull.returncode != 0 and b"cancel" in said
    finally:
        gate.set()
    assert TIMED_OUT in impatient.crio.log_text()


def test_through_the_mirror_it_may_again(impatient: Node, gated: GatedRegistry, images: ImageFactory) -> None:
    """All the waiting for blobs is done before the manifest is answered."""
    impatient.restart(replace(impatient.crio.storage, mirror_port=impatient.mirror_port))
    already = impatient.crio.log_text().count(TIMED_OUT)
    layer = images.scratch("late", [TarBuilder().file("four", bytes(range(256)) * 999).build()])[0]
    gate = gated.hold(layer.digest)
    pull = impatient.crio.begin("pull", f"{gated.address}/late:late")
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            pull.wait(3 * TIMEOUT)
    finally:
        gate.set()
    _, said = pull.communicate(timeout=30)
    assert pull.returncode == 0, said
    assert gated.blobs_asked().count(layer.digest) == 1
    assert impatient.crio.log_text().count(TIMED_OUT) == already
