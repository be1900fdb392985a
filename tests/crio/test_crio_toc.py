"""Images whose layers have a table of contents: CRI-O asks the daemon for them, by TOC digest.

containers/storage 1.58 and later forgets a layer that an additional layer store gave it: the image works until CRI-O
is started anew. Published in the image store under their TOC chain IDs, layers need not be remembered.
"""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crio.conftest import Node
from tests.harness.images import BUSYBOX

KINDS = ("estargz-tiny", "zstdchunked-skopeo122-tiny")
SHELL = {"/busybox": BUSYBOX}
"""The fixtures have no program of their own."""


@pytest.fixture(scope="module")
def serving(node: Node) -> Node:
    """With a CRI-O that knows of the layer store."""
    node.restart(replace(node.crio.storage, layer_stores=(node.als.layer_store,)))
    return node


@pytest.fixture(params=KINDS)
def annotated(serving: Node, fixtures_dir: Path, request: pytest.FixtureRequest) -> str:
    """The reference of an image that nobody has yet."""
    kind = str(request.param)
    repository = f"{kind}-{request.node.originalname.replace('_', '-')}:latest"
    return serving.registry.push(f"oci:{fixtures_dir / kind}", repository)


def expected_sums(fixtures_dir: Path) -> dict[str, str]:
    """The sha256 of every file of the merged image, by path."""
    merged = json.loads((fixtures_dir / "truth-tiny.json").read_bytes())["merged"]
    return {entry["path"]: entry["sha256"] for entry in merged if entry["type"] in ("file", "hardlink")}


def sums(node: Node, container: str, paths: list[str]) -> dict[str, str]:
    """The same of some files as a container sees them."""
    lines = node.crio.exec(container, "/busybox", "sha256sum", *paths).splitlines()
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def layer_blobs(node: Node, reference: str) -> set[str]:
    """Digests of the image's layers as the registry has them."""
    return {str(layer["blob"]) for layer in node.als.json("inspect", reference)["layers"]}


def test_an_annotated_image_outlives_restarts(serving: Node, annotated: str, fixtures_dir: Path) -> None:
    node = serving
    expected = expected_sums(fixtures_dir)
    before = len(node.registry.requests())
    node.crio.pull(annotated)
    asked, layers = node.blobs_since(before), layer_blobs(node, annotated)
    assert sorted(blob for blob in asked if blob in layers) == sorted(layers), "each once, by als"
    assert node.crio.own_image_layers() == node.pause_layers
    pod = node.crio.pod()
    container = node.crio.container(pod, annotated, "/busybox", "sleep", "100000", files=SHELL)
    assert sums(node, container, list(expected)) == expected
    before = len(node.registry.requests())
    for how in (signal.SIGTERM, signal.SIGKILL):
        with node.crio.stopped(how):
            assert node.als.json("gc")["layers"] == []
        assert annotated in node.crio.images()
        assert sums(node, container, list(expected)) == expected
        other = node.crio.container(pod, annotated, "/busybox", "sleep", "100000", name=how.name.lower(), files=SHELL)
        assert sums(node, other, list(expected)) == expected
    node.crio.pull(annotated)
    assert not layers.intersection(node.blobs_since(before))
    node.crio.wipe_pods()
    node.crio("rmi", annotated, status=None)
    node.als.cli("rm", annotated)
    assert len(node.als.json("gc")["layers"]) == len(layers)
