"""Pulls from OCI layouts: what the store and the image store hold afterwards, and what they do not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from als.errors import AlsError, BadImage, DigestMismatch, LimitExceeded, NotFound, Unsupported
from als.model.digest import Digest
from als.model.reference import parse_reference
from als.service import Service
from als.service.contents import describe_layer, file_content, layer_tree
from als.service.recovery import recover
from als.service.usage import measure
from als.store.images import ImageRecord
from als.store.recipe import tar_stream
from tests.harness.ocilayout import Image, Layout, TarBuilder

BIG = os.urandom(3_000_000)


def pull(service: Service, layout: Layout, tag: str) -> ImageRecord:
    return service.pull(parse_reference(layout.name(tag)))


def add(layout: Layout, tag: str, *tars: bytes, compression: str = "gzip") -> Image:
    return layout.add_image(tag, [layout.add_layer(tar, compression) for tar in tars])


def base() -> bytes:
    return (
        TarBuilder().directory("etc").file("etc/small", b"tiny").file("etc/medium", b"m" * 5000).file("big", BIG, 0o755).build()
    )


def leftovers(service: Service) -> list[str]:
    return os.listdir(service.layout.tmp)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_pulled_image_is_mounted_listed_and_readable(service: Service, layout: Layout, compression: str) -> None:
    upper = TarBuilder().whiteout("etc/medium").file("etc/new", b"new").build()
    add(layout, "a", base(), upper, compression=compression)
    image = pull(service, layout, "a")
    published = service.diff_n.published()
    assert list(published) == list(image.chain)
    top = published[image.chain[1]]
    assert top["parent"] == image.chain[0]
    assert top["diff-digest"] == f"sha256:{hashlib.sha256(upper).hexdigest()}"
    assert top["diff-size"] == len(upper)
    assert top["compression"] == {"none": 0, "gzip": 2, "zstd": 4}[compression]
    assert "parent" not in published[image.chain[0]]
    assert (service.diff_n.diff(image.chain[0]) / "etc/small").read_bytes() == b"tiny"
    assert (service.diff_n.diff(image.chain[1]) / "etc/medium").is_char_device()
    assert b"".join(file_content(service, image, "/big")) == BIG
    with pytest.raises(NotFound):
        b"".join(file_content(service, image, "/etc/medium"))
    assert leftovers(service) == []


def test_the_tar_streams_come_back(service: Service, layout: Layout) -> None:
    """From recipe and objects alone, with content that a later entry replaced, and with what follows the end marker."""
    tar = TarBuilder().file("a", b"old" * 1000).file("a", b"new" * 1000).file("b", b"x" * 64).file("c", b"x" * 65).build()
    tar += os.urandom(512)
    add(layout, "a", tar, base())
    image = pull(service, layout, "a")
    for diff_id, expected in zip(image.config.diff_ids, (tar, base()), strict=True):
        stream = tar_stream(service.layers.recipe(diff_id), lambda sha: os.open(service.layout.object(sha), os.O_RDONLY))
        assert b"".join(stream) == expected


def test_a_second_image_takes_only_what_is_new(service: Service, layout: Layout) -> None:
    shared = TarBuilder()
    for number in range(90):
        shared.file(f"f{number}", bytes([number]) * 20_000)
    second = TarBuilder()
    for number in range(9, 99):
        second.file(f"other/{number}", bytes([number]) * 20_000)
    add(layout, "a", shared.build())
    add(layout, "b", second.build())
    pull(service, layout, "a")
    before = disk(service.layout.root)
    pull(service, layout, "b")
    assert disk(service.layout.root) - before < 0.15 * before
    usage = measure(service)
    assert usage.objects == 99 * 20_000
    assert usage.saved == 81 * 20_000
    assert [(image.unique, image.shared) for image in usage.images] == [(9 * 20_000, 81 * 20_000)] * 2


def disk(folder: Path) -> int:
    """Bytes that the inodes below take, each once, mounts left out."""
    output = subprocess.run(["du", "-sx", "--block-size=1", folder], capture_output=True, check=True, text=True).stdout
    return int(output.split()[0])


def test_a_layer_that_is_here_is_not_fetched_again(service: Service, layout: Layout) -> None:
    add(layout, "a", base())
    pull(service, layout, "a")
    image = add(layout, "b", base(), TarBuilder().file("x", b"x" * 100).build())
    layout.blob(image.layers[0].digest).unlink()
    pull(service, layout, "b")
    assert [ref.reference for ref in service.images.refs()] == [layout.name("a"), layout.name("b")]


def test_a_layer_listed_twice_gets_a_mount_for_each_place(service: Service, layout: Layout) -> None:
    layer = layout.add_layer(base())
    image = layout.add_image("twice", [layer, layout.add_layer(TarBuilder().whiteout("big").build()), layer])
    pulled = service.pull(parse_reference(layout.name("twice")))
    assert len(image.layers) == 3
    first, _, third = (service.diff_n.diff(chain) for chain in pulled.chain)
    assert first.stat().st_dev != third.stat().st_dev
    assert (third.parent / "diff1").resolve() != (first.parent / "diff1").resolve()
    assert service.refusal(pulled, Digest.parse(layer.digest)) != ""
    assert service.refusal(pulled, Digest.parse(image.layers[1].digest)) == ""


def test_an_image_of_120_layers(service: Service, layout: Layout) -> None:
    layers = [layout.add_layer(TarBuilder().file(f"f{n}", b"%d" % n * 100).build(), "none") for n in range(120)]
    layout.add_image("tower", layers)
    image = pull(service, layout, "tower")
    assert list(service.diff_n.published()) == list(image.chain)
    assert service.refusal(image, image.manifest.layers[0].digest) == ""
    assert b"".join(file_content(service, image, "/f119")) == b"119" * 100
    assert len(os.listdir(service.diff_n.diff(image.chain[119]))) == 121


def wrong_diff_id(layout: Layout) -> None:
    layer = layout.add_layer(base())
    other = layout.add_layer(TarBuilder().file("x", b"y").build())
    layout.add_image("bad", [dataclasses.replace(layer, diff_id=other.diff_id)])


def wrong_blob(layout: Layout) -> None:
    layer = layout.add_layer(base())
    layout.add_image("bad", [layer])
    layout.blob(layer.digest).write_bytes(layout.blob(layout.add_layer(base(), "zstd").digest).read_bytes())


def flipped(layout: Layout) -> None:
    image = add(layout, "bad", base())
    path = layout.blob(image.layers[0].digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncated(layout: Layout) -> None:
    image = add(layout, "bad", base())
    path = layout.blob(image.layers[0].digest)
    path.write_bytes(path.read_bytes()[:-20])


def longer(layout: Layout) -> None:
    image = add(layout, "bad", base(), compression="none")
    path = layout.blob(image.layers[0].digest)
    path.write_bytes(path.read_bytes() + bytes(1 << 20))


def torn_tar(layout: Layout) -> None:
    add(layout, "bad", base()[:-100_000])


def escaping(layout: Layout) -> None:
    add(layout, "bad", TarBuilder().file("../../etc/passwd", b"root::0:0").build())


def dangling(layout: Layout) -> None:
    add(layout, "bad", TarBuilder().hardlink("a", "nowhere").build())


def hidden_name(layout: Layout) -> None:
    add(layout, "bad", TarBuilder().file(".als/aa/bb", b"x" * 100).build())


def bomb(layout: Layout) -> None:
    """A sparse file of a petabyte, all holes (PAX GNU.sparse 1.0: the map is at the payload's start)."""
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 50),
        "GNU.sparse.name": "holes",
    }
    add(layout, "bad", TarBuilder().file("GNUSparseFile/holes", b"0\n".ljust(512, b"\0"), pax_headers=headers).build())


def strange_type(layout: Layout) -> None:
    layer = layout.add_layer(base())
    layout.add_image("bad", [dataclasses.replace(layer, media_type="application/vnd.example.layer")])


def no_blob(layout: Layout) -> None:
    image = add(layout, "bad", base())
    layout.blob(image.layers[0].digest).unlink()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (wrong_diff_id, DigestMismatch),
        (wrong_blob, DigestMismatch),
        (flipped, BadImage),
        (truncated, DigestMismatch),
        (longer, DigestMismatch),
        (torn_tar, BadImage),
        (escaping, BadImage),
        (dangling, BadImage),
        (hidden_name, Unsupported),
        (bomb, LimitExceeded),
        (strange_type, Unsupported),
        (no_blob, NotFound),
    ],
)
def test_a_bad_image_is_refused_and_nothing_of_it_stays(
    service: Service, layout: Layout, make: object, error: type[AlsError]
) -> None:
    assert callable(make)
    make(layout)
    with pytest.raises(error) as caught:
        pull(service, layout, "bad")
    assert layout.name("bad") in str(caught.value)
    assert leftovers(service) == []
    assert service.layers.all() == []
    assert service.images.refs() == []
    assert service.diff_n.published() == {}
    assert [path for path in service.layout.objects.rglob("*") if path.is_file()] == []


def test_good_layers_of_a_bad_image_are_kept(service: Service, layout: Layout) -> None:
    good, bad = layout.add_layer(base()), layout.add_layer(TarBuilder().file("x", b"x" * 100).build())
    layout.add_image("bad", [good, dataclasses.replace(bad, diff_id="sha256:" + "0" * 64)])
    with pytest.raises(DigestMismatch):
        pull(service, layout, "bad")
    assert [str(record.diff_id) for record in service.layers.all()] in ([good.diff_id], [])
    layout.add_image("good", [good, bad])
    pull(service, layout, "good")
    assert len(service.layers.all()) == 2


def test_find_by_reference_and_digest(service: Service, layout: Layout) -> None:
    add(layout, "a", base())
    image = pull(service, layout, "a")
    for name in (layout.name("a"), str(image.digest), image.digest.hex, image.digest.hex[:8]):
        assert service.find(name).digest == image.digest
    for name in (layout.name("b"), "sha256:" + "0" * 64, image.digest.hex[:5], "not a name", "", "busybox"):
        with pytest.raises(NotFound):
            service.find(name)


def test_recovery_mounts_again_and_sweeps(service: Service, layout: Layout) -> None:
    add(layout, "a", base())
    image = pull(service, layout, "a")
    service.diff_n.unmount_all()
    assert not service.diff_n.is_ready(image.chain[0])
    (service.layout.tmp / "half-made" / "forest").mkdir(parents=True)
    (service.layout.root / "is4" / "overlay-layers" / "layers.json").write_bytes(b"[]")
    recover(service)
    assert service.diff_n.is_ready(image.chain[0])
    assert list(service.diff_n.published()) == [image.chain[0]]
    assert leftovers(service) == []


def test_attributes_survive_to_the_listing(service: Service, layout: Layout) -> None:
    tar = (
        TarBuilder()
        .directory("d", 0o1777, uid=7, gid=8)
        .opaque("d")
        .file("d/f", b"x", 0o4755, uid=70000)
        .hardlink("l", "d/f", mode=0o4755, uid=70000)
    )
    add(layout, "a", tar.symlink("s", "d/f").build())
    image = pull(service, layout, "a")
    entries = {str(e["path"]): e for e in describe_layer(layer_tree(service, image.config.diff_ids[0]), 0)}
    assert entries["/d"]["opaque"] is True
    assert entries["/d"]["mode"] == "1777"
    assert entries["/d/f"]["uid"] == 70000
    assert entries["/d/f"]["mode"] == "4755"
    assert entries["/d/f"]["ino"] == entries["/l"]["ino"]
    assert entries["/s"]["linkname"] == "d/f"
    assert entries["/d/f"]["sha256"] == hashlib.sha256(b"x").hexdigest()
    json.dumps(list(entries.values()))
