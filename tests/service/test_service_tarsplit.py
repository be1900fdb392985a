"""tar-split files of layers in a store: read through the kernel as clients do, and held beside podman's own."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from als.config import Config
from als.fetch.assembler import INLINE_FILE, SMALL_FILE
from als.fetch.progress import Silent
from als.formats.tar import FORMAT
from als.imagestore.diffn import FLATTEN
from als.model.digest import Digest
from als.model.reference import parse_reference
from als.mount.erofs import erofs_mounted
from als.service import Service
from als.service.contents import layer_tree
from als.store.images import ImageRecord
from als.store.layout import TarSplitForm
from als.store.lock import sharing
from als.store.tarsplit import write_forest_tar_split, write_tar_split
from tests.formats.test_formats_conformance import inflate, layers_of
from tests.harness.archives import diff_ids_of_archive
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.podman import Podman, Storage
from tests.harness.system import unmount_below
from tests.store.tarsplit_reader import Getter, Parts


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


def tar_split_of(service: Service, diff_id: Digest, form: TarSplitForm) -> Parts:
    return Parts.read(service.layers.tar_split(diff_id, form).read_bytes())


def made_afterwards(service: Service, diff_id: Digest, form: TarSplitForm) -> bytes:
    """The same file, from the recipe."""
    out = io.BytesIO()
    recipe, open_object = service.layers.recipe(diff_id), service.layers.opener(diff_id)
    if form is TarSplitForm.IMAGE:
        write_tar_split(layer_tree(service, diff_id), recipe, open_object, out)
    else:
        write_forest_tar_split(recipe, open_object, out)
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


def fill(service: Service, reference: str) -> ImageRecord:
    """Make an image's layers and publish nothing."""
    with sharing(service.layout.lock), service.puller.resolved(parse_reference(reference)) as resolved:
        service.puller.fill(resolved, lambda _: None, Silent())
        return resolved.image


def test_streams_come_back_from_the_mounted_image_and_the_forest(
    service: Service, layout: Layout, fixtures_dir: Path, tmp_path: Path
) -> None:
    """By the files that were made in passing as well as by those that are made afterwards."""
    tars = all_tars(fixtures_dir, tmp_path)
    assert len(tars) > 8
    layout.add_image("all", [layout.add_layer(raw, "none") for raw in tars.values()])
    fill(service, layout.name("all"))
    named = in_passing = 0
    (target := tmp_path / "mounted").mkdir()
    for text, raw in tars.items():
        diff_id = Digest.parse(text)
        forest = service.layers.forest(diff_id)
        with erofs_mounted(service.layers.image(diff_id), target) as mount:
            getters = {
                TarSplitForm.IMAGE: through_the_kernel(mount, forest),
                TarSplitForm.FOREST: directly(forest.parent / "diff"),
            }
            for form, get in getters.items():
                parts = Parts.read(made_afterwards(service, diff_id, form))
                assert parts.stream(get) == raw
                named += len(parts.files)
                if service.layers.tar_split(diff_id, form).exists():
                    assert tar_split_of(service, diff_id, form).stream(get) == raw
                    in_passing += 1
    assert named > 200
    assert in_passing > len(tars)


LARGE = SMALL_FILE + 1
USUAL = (
    TarBuilder().directory("./d").file("./d/a", b"a" * 65).file("./d/b", b"b" * 64).file("c", b"c" * LARGE).hardlink("h", "d/a")
)
ODD = {
    "replaced": (TarBuilder().file("a", b"1" * 99).file("a", b"2" * 99), {TarSplitForm.FOREST}),
    "replaced by a directory": (TarBuilder().file("a", b"1" * 99).directory("a"), {TarSplitForm.FOREST}),
    "repeated": (TarBuilder().file("a", b"1" * 99).file("a", b"1" * 99), set(TarSplitForm)),
    "repeated, large": (TarBuilder().file("a", b"1" * LARGE).file("a", b"1" * LARGE), set()),
    "two of one content": (TarBuilder().file("a", b"1" * 99).file("b", b"1" * 99), set(TarSplitForm)),
    "two of one content, large": (TarBuilder().file("a", b"1" * LARGE).file("b", b"1" * LARGE), {TarSplitForm.IMAGE}),
    "below a symlink": (TarBuilder().directory("d").symlink("s", "d").file("s/a", b"1" * 99), {TarSplitForm.FOREST}),
    "spelt oddly": (TarBuilder().file("d/../a", b"1" * 99), {TarSplitForm.FOREST}),
}
"""Layers, and which tar-split files can be made of them in passing."""


def test_what_is_made_in_passing_is_what_would_be_made_afterwards(service: Service, layout: Layout) -> None:
    layout.add_image("usual", [layout.add_layer(USUAL.build())])
    (diff_id,) = fill(service, layout.name("usual")).config.diff_ids
    for form in TarSplitForm:
        assert service.layers.tar_split(diff_id, form).read_bytes() == made_afterwards(service, diff_id, form)
    owners = service.layers.owners(diff_id).read_bytes()
    service.pull(parse_reference(layout.name("usual")))
    assert service.layers.owners(diff_id).read_bytes() == owners
    assert json.loads(owners) == {"uids": [0], "gids": [0]}


def test_what_cannot_be_made_in_passing_is_made_on_publication(service: Service, layout: Layout, tmp_path: Path) -> None:
    tars = {name: tar.build() for name, (tar, _) in ODD.items()}
    layout.add_image("odd", [layout.add_layer(raw) for raw in tars.values()])
    diff_ids = dict(zip(ODD, fill(service, layout.name("odd")).config.diff_ids, strict=True))
    made = {
        name: {form for form in TarSplitForm if service.layers.tar_split(diff_id, form).exists()}
        for name, diff_id in diff_ids.items()
    }
    assert made == {name: forms for name, (_, forms) in ODD.items()}
    service.pull(parse_reference(layout.name("odd")))
    (target := tmp_path / "mounted").mkdir()
    for name, diff_id in diff_ids.items():
        forest = service.layers.forest(diff_id)
        with erofs_mounted(service.layers.image(diff_id), target) as mount:
            assert tar_split_of(service, diff_id, TarSplitForm.IMAGE).stream(through_the_kernel(mount, forest)) == tars[name]
        get = directly(forest.parent / "diff")
        assert tar_split_of(service, diff_id, TarSplitForm.FOREST).stream(get) == tars[name]


def test_only_what_is_needed_is_made(config: Config, layout: Layout, as_root: None) -> None:
    """And what is needed later is made then."""
    layout.add_image("usual", [layout.add_layer(USUAL.build())])
    try:
        with Service(replace(config, layouts=("diffN",))) as service:
            (diff_id,) = service.pull(parse_reference(layout.name("usual"))).config.diff_ids
            assert not service.layers.tar_split(diff_id, TarSplitForm.IMAGE).exists()
            assert not service.layers.owners(diff_id).exists()
        with Service(replace(config, layouts=("composefs",))) as service:
            image = service.pull(parse_reference(layout.name("usual")))
            made = service.composefs.tar_split(image.chain[0]).read_bytes()
            assert made == made_afterwards(service, diff_id, TarSplitForm.IMAGE)
    finally:
        unmount_below(config.root)


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
            ours = tar_split_of(service, diff_id, TarSplitForm.IMAGE)
            with erofs_mounted(service.layers.image(diff_id), target) as mount:
                stream = ours.stream(through_the_kernel(mount, service.layers.forest(diff_id)))
            assert Digest.of(stream) == diff_id
            assert stream == theirs.stream(directly(podman.graph_root / f"overlay/{chain}/diff"))
            larger = Counter((size, checksum) for _, size, checksum in theirs.files if size > INLINE_FILE)
            assert Counter((size, checksum) for _, size, checksum in ours.files) == larger


def test_podman_4_exports_and_copies_layers_without_a_daemon(
    service: Service, layout: Layout, module_dir: Path, fixtures_dir: Path
) -> None:
    """By names that lead out of ``diff`` to the forest: save, and a pull of another image with two of the layers.

    One is flat. podman copies those that stand on other layers there. Had they no tar-split file, it would copy what it sees
    in ``diff``, and write the promised DiffID down for that.
    """
    tars = [gzip.decompress(path.read_bytes()) for path in sorted((fixtures_dir / "src-tars").glob("tiny-*"))]
    tars += gnu_tars(module_dir)
    tars += [TarBuilder().file(f"n{number}", b"%d" % number * 500).build() for number in range(2 * FLATTEN + 1 - len(tars))]
    layers = [layout.add_layer(raw) for raw in tars]
    layout.add_image("image", layers)
    chosen = FLATTEN - 1, FLATTEN
    layout.add_image("other", [layers[number] for number in chosen])
    image = service.pull(parse_reference(layout.name("image")))
    flat = [service.diff_n.is_flat(chain_id) for chain_id in image.chain]
    assert flat == [number % FLATTEN == 0 for number in range(1, len(layers) + 1)]
    for chain_id, diff_id in zip(image.chain, image.config.diff_ids, strict=True):
        assert Parts.read(service.diff_n.tar_split(chain_id).read_bytes()).files, diff_id
    for number in chosen:
        layout.blob(layers[number].digest).unlink()
    with Podman(module_dir / "four", Storage(image_stores=(service.diff_n.root,))) as podman:
        for tag, expected in (
            ("image", image.config.diff_ids),
            ("other", [image.config.diff_ids[number] for number in chosen]),
        ):
            image_id = podman.pull(layout.name(tag)).stdout.decode().strip()
            podman("save", "-q", "--format", "oci-archive", "-o", module_dir / f"{tag}.tar", image_id)
            assert diff_ids_of_archive(module_dir / f"{tag}.tar") == list(map(str, expected))
        copies = podman.own_layers()
        assert [layer["diff-digest"] for layer in copies] == [str(image.config.diff_ids[number]) for number in chosen]
        for layer, number in zip(copies, chosen, strict=True):
            stream = Parts.read((podman.graph_root / f"overlay-layers/{layer['id']}.tar-split.gz").read_bytes()).stream(
                directly(podman.graph_root / f"overlay/{layer['id']}/diff")
            )
            assert stream == tars[number]
