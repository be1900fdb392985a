"""Ordinary tar-split files of layers in a store: read through the kernel as clients do, and held beside podman's own."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from als.fetch.assembler import INLINE_FILE
from als.formats.tar import FORMAT
from als.imagestore.disk_tarsplit import write_forest_tar_split, write_tar_split
from als.model.digest import Digest
from als.model.forest import forest_path
from als.model.reference import parse_reference
from als.mount.erofs import erofs_mounted
from als.service import Service
from als.service.contents import layer_tree
from tests.formats.test_formats_conformance import inflate, layers_of
from tests.harness.archives import diff_ids_of_archive
from tests.harness.ocilayout import Layout
from tests.harness.podman import Podman, Storage
from tests.imagestore.tarsplit_reader import Getter, Parts


def gnu_tars(folder: Path) -> Iterator[bytes]:
    """Sparse files, long names, hardlinks, as GNU tar writes them."""
    source = folder / "source"
    source.mkdir()
    with (source / "runs").open("wb") as runs:
        for number in range(30):
            runs.seek(number * 65536)
            runs.write(b"%d " % number * 100)
        runs.truncate(3_000_000)
    with (source / "hole").open("wb") as hole:
        hole.truncate(500_000)
    (source / ("n" * 200)).write_bytes(b"long" * 100)
    os.link(source / "runs", source / "zlink")
    (source / os.fsdecode(b"caf\xe9")).write_bytes(b"latin" * 100)
    for options in (["--format=gnu", "-S"], ["--format=pax", "-S"], ["--format=gnu"]):
        command = ["tar", "-C", str(source), *options, "-cf", "-", "."]
        yield subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


def all_tars(fixtures: Path, folder: Path) -> dict[str, bytes]:
    """Every tar stream there is to try, by its DiffID."""
    found = [inflate(layer.blob) for layer in layers_of(fixtures, FORMAT)]
    found += [gzip.decompress(path.read_bytes()) for path in (fixtures / "src-tars").iterdir()]
    found += gnu_tars(folder)
    return {str(Digest.of(raw)): raw for raw in found}


def objects_of(service: Service, diff_id: Digest) -> Callable[[bytes], int]:
    forest = service.layers.forest(diff_id)
    return lambda sha256: os.open(forest / forest_path(sha256), os.O_RDONLY)


def tar_split_of(service: Service, diff_id: Digest) -> bytes:
    out = io.BytesIO()
    write_tar_split(layer_tree(service, diff_id), service.layers.recipe(diff_id), objects_of(service, diff_id), out)
    return out.getvalue()


def through_the_kernel(mount: Path, forest: Path) -> Getter:
    """As overlayFileGetter of containers/storage reads a composefs layer."""

    def get(name: bytes) -> bytes:
        redirect = os.getxattr(mount / os.fsdecode(name), "trusted.overlay.redirect")
        return Path(f"{forest}/{os.fsdecode(redirect)}").read_bytes()

    return get


def directly(folder: Path) -> Getter:
    """As podman reads a layer that it unpacked itself."""
    return lambda name: (folder / os.fsdecode(name)).read_bytes()


def test_streams_come_back_from_the_mounted_image_and_the_forest(
    service: Service, layout: Layout, fixtures_dir: Path, tmp_path: Path
) -> None:
    tars = all_tars(fixtures_dir, tmp_path)
    assert len(tars) > 8
    layout.add_image("all", [layout.add_layer(raw, "none") for raw in tars.values()])
    service.pull(parse_reference(layout.name("all")))
    named = 0
    (target := tmp_path / "mounted").mkdir()
    for diff_id, raw in tars.items():
        digest = Digest.parse(diff_id)
        parts = Parts.read(tar_split_of(service, digest))
        with erofs_mounted(service.layers.image(digest), target) as mount:
            assert parts.stream(through_the_kernel(mount, service.layers.forest(digest))) == raw
        named += len(parts.files)
    assert named > 100


@pytest.mark.parametrize("image", ["tiny", "tinyp"])
def test_the_same_files_as_in_podman_s_own(
    service: Service, layout: Layout, module_dir: Path, fixtures_dir: Path, image: str
) -> None:
    """podman pulls the image itself: the checksums that Go computed, and the very stream."""
    tars = [gzip.decompress((fixtures_dir / f"src-tars/{image}-layer{number}.tar.gz").read_bytes()) for number in (0, 1)]
    layout.add_image(image, [layout.add_layer(raw) for raw in tars])
    name = layout.name(image)
    diff_ids = service.pull(parse_reference(name)).config.diff_ids
    (target := module_dir / f"{image}-mounted").mkdir()
    with Podman(module_dir / image) as podman:
        podman.pull(name)
        layers = {layer["diff-digest"]: layer["id"] for layer in podman.own_layers()}
        for diff_id in diff_ids:
            chain = layers[str(diff_id)]
            theirs = Parts.read((podman.graph_root / f"overlay-layers/{chain}.tar-split.gz").read_bytes())
            ours = Parts.read(tar_split_of(service, diff_id))
            with erofs_mounted(service.layers.image(diff_id), target) as mount:
                stream = ours.stream(through_the_kernel(mount, service.layers.forest(diff_id)))
            assert Digest.of(stream) == diff_id
            assert stream == theirs.stream(directly(podman.graph_root / f"overlay/{chain}/diff"))
            larger = Counter((size, checksum) for _, size, checksum in theirs.files if size > INLINE_FILE)
            assert Counter((size, checksum) for _, size, checksum in ours.files) == larger


def test_podman_4_exports_and_copies_layers_without_a_daemon(
    service: Service, layout: Layout, module_dir: Path, fixtures_dir: Path
) -> None:
    """By names that lead out of ``diff`` to the forest: save, and a pull of another image with one of the layers."""
    tars = [gzip.decompress(path.read_bytes()) for path in sorted((fixtures_dir / "src-tars").glob("tiny-*"))]
    layers = [layout.add_layer(raw) for raw in [*tars, *gnu_tars(module_dir)]]
    layout.add_image("image", layers)
    layout.add_image("other", [layers[-1]])
    image = service.pull(parse_reference(layout.name("image")))
    service.diff_n.publish([service.layer_of(image, index) for index in range(len(layers))])
    for chain_id, diff_id in zip(image.chain, image.config.diff_ids, strict=True):
        out = io.BytesIO()
        write_forest_tar_split(service.layers.recipe(diff_id), objects_of(service, diff_id), out)
        assert Parts.read(out.getvalue()).files
        service.diff_n.tar_split(chain_id).unlink()
        service.diff_n.tar_split(chain_id).write_bytes(out.getvalue())
    layout.blob(layers[-1].digest).unlink()
    with Podman(module_dir / "four", Storage(image_stores=(service.diff_n.root,))) as podman:
        for tag, expected in (("image", image.config.diff_ids), ("other", image.config.diff_ids[-1:])):
            image_id = podman.pull(layout.name(tag)).stdout.decode().strip()
            podman("save", "-q", "--format", "oci-archive", "-o", module_dir / f"{tag}.tar", image_id)
            assert diff_ids_of_archive(module_dir / f"{tag}.tar") == list(map(str, expected))
        assert len(podman.own_layers()) == 1, "only the layer that stands on no other one here is a copy"
