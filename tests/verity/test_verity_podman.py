"""Sealed images under podman 5.4 with ``verity=require``: whatever is done to the store, a container reads what was pulled, or
gets an error; fsck then says what is concerned, and repairs it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from als.erofs.identity import uuid_of
from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.erofs.writer import write_image
from als.model.tree import Directory
from als.native.verity import measure_path
from tests.conftest import CACHE
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.harness.vmpytest import PODMAN
from tests.verity.tampering import flip_block, names_of, put_in_place

pytestmark = pytest.mark.in_vm

KINDS = ("content", "sealed-content", "unsealed", "block", "missing", "link", "chain-unsealed", "chain-missing", "untouched")
DAMAGED = KINDS[:-1]
REFUSALS = ("Input/output error", "I/O error", "No such file or directory")
"""How cat says that it was given nothing."""
READ = """
for path in /t/*; do
    name=${path##*/}
    cat "$path" >/out/$name.data 2>/out/$name.error
    echo $? >/out/$name.status
done
"""


def content(kind: str) -> bytes:
    return random.Random(kind).randbytes(3 * 4096 + 100)


@dataclass(frozen=True)
class Site:
    """A stack of which all that is read has to be sealed."""

    stack: Stack
    images: ImageFactory
    registry: RegistryServer

    def pulled(self, tag: str) -> str:
        """An image with the files, pulled through the store; no two have their upper layer in common."""
        tar = TarBuilder().directory("t")
        for kind in KINDS:
            tar.file(f"t/{kind}", content(kind + tag))
        self.images.runnable(tag, [tar.build()])
        reference = self.registry.push(self.images.layout.name(tag), f"{tag}:1")
        self.stack.pull(reference)
        return reference

    def read(self, reference: str, out: Path) -> dict[str, tuple[int, bytes, str]]:
        """What a container reads: exit status, bytes, and what cat says, by the file's name."""
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        self.stack.podman.run(reference, "sh", "-c", READ, options=["-v", f"{out}:/out"])
        found = {}
        for path in sorted(out.glob("*.status")):
            name = path.stem
            data, error = (out / f"{name}.data").read_bytes(), (out / f"{name}.error").read_text()
            found[name] = int(path.read_text()), data, error
        assert set(found) == set(KINDS)
        return found

    def fsck(self, *options: str, status: int) -> dict[str, list[dict[str, Any]]]:
        done = self.stack.als.cli("fsck", "--deep", "--json", *options, status=status)
        found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def site(as_root: None, module_dir: Path) -> Iterator[Site]:
    try:
        binaries = binaries_of(PODMAN, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with (
        RegistryServer(module_dir / "registry") as registry,
        Stack(module_dir / "s", registry, binaries, settings={"verity": "require"}) as stack,
    ):
        assert stack.podman.version[:2] == (5, 4)
        yield Site(stack, ImageFactory(module_dir / "images"), registry)


def tamper(root: Path, tag: str) -> None:
    """Harm each file in the way that its name says."""

    def objects(kind: str, below: str = "") -> list[Path]:
        sha256 = hashlib.sha256(content(kind + tag)).hexdigest()
        return names_of(root / "objects" / sha256[:2] / sha256[2:], root / below)

    for kind in ("content", "sealed-content"):
        data = bytearray(content(kind + tag))
        data[5000] ^= 1
        put_in_place(objects(kind), bytes(data), sealed=kind == "sealed-content")
    put_in_place(objects("unsealed"), content("unsealed" + tag), sealed=False)
    for path in objects("missing"):
        path.unlink()
    # What stands for the file in the place that podman mounts, alone.
    (in_chain,) = objects("link", "image-store")
    in_chain.unlink()
    in_chain.hardlink_to(objects("untouched")[0])
    (in_chain,) = objects("chain-missing", "image-store")
    in_chain.unlink()
    put_in_place(objects("chain-unsealed", "image-store"), content("chain-unsealed" + tag), sealed=False)
    flip_block(objects("block")[0], 1)


def test_a_container_reads_what_was_pulled_or_nothing(site: Site, module_dir: Path) -> None:
    reference = site.pulled("harmed")
    assert site.read(reference, module_dir / "out") == {kind: (0, content(kind + "harmed"), "") for kind in KINDS}
    tamper(site.stack.als.root, "harmed")
    found = site.read(reference, module_dir / "out")
    assert found.pop("untouched") == (0, content("untouchedharmed"), "")
    for kind, (status, data, error) in found.items():
        assert status != 0 and error.rstrip().endswith(REFUSALS), (kind, status, error)
        # Blocks before the damaged one are what they were.
        assert content(kind + "harmed").startswith(data) and len(data) <= 4096, (kind, len(data))
    layers = site.stack.podman.layers(reference)
    problems = site.fsck(status=6)["found"]
    for kind in DAMAGED:
        sha256 = hashlib.sha256(content(kind + "harmed")).hexdigest()
        told = [p for p in problems if {"layer": layers[-1], "name": f"/t/{kind}"} in p["files"]]
        assert told and all(reference in p["images"] for p in told), (kind, sha256, problems)
    assert site.fsck("--repair", status=0)["remaining"] == []
    assert site.fsck(status=0)["found"] == []
    assert site.read(reference, module_dir / "out") == {kind: (0, content(kind + "harmed"), "") for kind in KINDS}


def swapped_names(image: Path, forest: Path, made: Path) -> bytes:
    """An EROFS image as als would write it, in which two files have each other's names."""
    tree = read_image_file(image, LAYER)
    folder = tree.root.entries[b"t"]
    assert isinstance(folder, Directory)
    one, other = folder.entries[b"content"], folder.entries[b"untouched"]
    folder.entries.update({b"content": other, b"untouched": one})
    digests = {bytes.fromhex(path.name): digest for path in forest.iterdir() if (digest := measure_path(path)) is not None}
    with made.open("wb") as file:
        write_image(tree, file, LAYER, verity=digests, uuid=uuid_of("0" * 64))
    return made.read_bytes()


def test_an_image_that_was_swapped(site: Site, module_dir: Path) -> None:
    """podman mounts what lies in the image store, and compares no digest. als does, whenever it or the machine starts."""
    reference, tag = site.pulled("swapped"), "swapped"
    als = site.stack.als
    right = {kind: (0, content(kind + tag), "") for kind in KINDS}
    wrong = right | {"content": right["untouched"], "untouched": right["content"]}
    diff_id = site.stack.podman.layers(reference)[-1].removeprefix("sha256:")
    image = als.root / "layers" / diff_id / "layer.erofs"
    (blob,) = (path for path in names_of(image, als.root / "image-store") if path.name == "composefs.blob")
    other = swapped_names(image, image.parent / "diff1" / ".als", module_dir / "other.erofs")

    # Where podman mounts it, alone: not a boundary, for only root can do that. It is found, and made good.
    put_in_place([blob], other, sealed=True)
    assert site.read(reference, module_dir / "out") == wrong
    assert any(p["kind"] == "image store" and "another layer's" in p["what"] for p in site.fsck(status=6)["found"])
    als.stop()
    als.cli("mount")
    assert site.read(reference, module_dir / "out") == right

    # In all its places: there is nothing right to put there, so nothing is shown until it was fetched again.
    put_in_place(names_of(image, als.root), other, sealed=True)
    problems = site.fsck(status=6)["found"]
    assert any(p["kind"] == "layer" and p["name"].endswith(diff_id) and "fs-verity digest" in p["what"] for p in problems)
    als.cli("mount")
    site.stack.podman("run", "--rm", "--pull=never", reference, "true", status=125)
    als.start()
    als.cli("pull", reference)
    assert site.fsck(status=0)["found"] == []
    assert site.read(reference, module_dir / "out") == right
