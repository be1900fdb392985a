"""Tables of contents are read by processes that may lie, and every lie of an image is found out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from als.errors import AlsError, BadImage, DeadlineExceeded, DigestMismatch, WorkerError
from als.fetch.source import RegistryImages
from als.fetch.tocmatch import difference
from als.fetch.tocs import TailKept, check_layer, read_index
from als.formats.lazy import tree_of
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS
from als.model.manifest import STARGZ_TOC, ZSTD_CHUNKED_TOC
from als.model.tree import WHITEOUT, Content, Directory, FileType, Inode, Node, Tree
from als.registry.endpoint import Endpoint
from als.worker.client import Workers
from tests.fetch.toclayers import (
    DEVICE,
    FLAVOURS,
    HARD,
    LINK,
    TOOL,
    A,
    D,
    Shelf,
    finish,
    image_of,
    layer_of,
    shelf_of,
    writer_of,
)
from tests.formats.lazylayers import LazyLayer, layers_of
from tests.formats.liars import SHA, append, drop, format_for, put, remove
from tests.formats.tocbuilder import Row, document_of
from tests.harness.gated import GatedRegistry
from tests.harness.ocilayout import LayerBlob, Layout
from tests.harness.registry import RegistryServer

pytestmark = pytest.mark.usefixtures("as_root")
STALL = 20.0


@pytest.fixture(scope="module")
def workers(module_dir: Path) -> Iterator[Workers]:
    with Workers((65534, 65534), module_dir / "empty") as found:
        yield found


@pytest.fixture(scope="module")
def liars(module_dir: Path) -> Iterator[Workers]:
    with Workers((65534, 65534), module_dir / "empty", "tests.fetch.toc_liar") as found:
        yield found


def check(layer: LazyLayer, image: Path, workers: Workers) -> None:
    check_layer(shelf_of(layer), layer.descriptor, image, workers, tag="one", stall=STALL)


def refusal(layer: LazyLayer, image: Path, workers: Workers) -> str:
    with pytest.raises(AlsError) as caught:
        check(layer, image, workers)
    return f"{type(caught.value).__name__} {caught.value.what}"


def test_every_annotated_fixture_is_what_its_table_says(fixtures_dir: Path, workers: Workers, tmp_path: Path) -> None:
    checked = 0
    for layout in sorted(fixtures_dir.glob("*/oci-layout")):
        if layout.parent.name.startswith(("estargz-", "zstdchunked-")):
            for layer in layers_of(layout.parent):
                check(layer, image_of(layer, tmp_path / "image"), workers)
                checked += 1
    assert checked >= 10


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_honest_layers(flavour: str, workers: Workers, tmp_path: Path) -> None:
    layer = layer_of(flavour)
    check(layer, image_of(layer, tmp_path / "image"), workers)
    index = read_index(shelf_of(layer), layer.descriptor, workers, tag="one", stall=STALL)
    assert index is not None
    assert difference(tree_of(index), tree_of(layer.index(format_for(layer)))) == ""


LIES: dict[str, tuple[Callable[[list[Row]], None], str]] = {
    "content": (put(A, digest=SHA, chunkDigest=SHA), "d/a: another content"),
    "mode": (put(TOOL, mode=0o755), "d/tool: another mode"),
    "setuid": (put(HARD, mode=0o4644), "d/a: another mode"),
    "owner": (put(HARD, uid=0), "d/a: another owner"),
    "group": (put(D, gid=9), "d: another owner"),
    "time": (put(HARD, modtime="2001-01-01T00:00:00Z"), "d/a: another time"),
    "no time": (drop(D, "modtime"), "d: another time"),
    "xattr": (put(TOOL, xattrs={"user.note": "dHdv"}), "d/tool: another set of extended attributes"),
    "no xattr": (drop(TOOL, "xattrs"), "d/tool: another set of extended attributes"),
    "extra xattr": (put(D, xattrs={"user.more": "dHdv"}), "d: another set of extended attributes"),
    "target": (put(LINK, linkName="tool"), "d/link: another target"),
    "device": (put(DEVICE, devMinor=8), "d/null: another device number"),
    "type": (put(DEVICE, type="block"), "d/null: another type"),
    "link to another": (put(HARD, linkName="d/link"), "d/hard: another type"),
    "link unlinked": (put(HARD, type="symlink", linkName="a"), "d/hard: another type"),
    "missing": (remove(DEVICE), "d/null: only in the layer"),
    "missing file": (remove(TOOL), "d/tool: only in the layer"),
    "extra": (append(name="d/more", type="dir"), "d/more: only in the table"),
    "extra below the root": (append(name="more", type="fifo"), "more: only in the table"),
    "whiteout": (append(name="d/.wh.gone", type="reg"), "d/gone: only in the table"),
    "opaque": (append(name="d/.wh..wh..opq", type="reg"), "d: opaque in one of them only"),
}


@pytest.mark.parametrize("flavour", ["estargz", "external", "podman"])
@pytest.mark.parametrize("lie", LIES)
def test_a_table_that_lies(flavour: str, lie: str, workers: Workers, tmp_path: Path) -> None:
    """The manifest commits to the table as it is, so nothing but the comparison finds it out."""
    change, words = LIES[lie]
    made = writer_of(flavour)
    change(made.rows)
    layer = finish(flavour, made)
    assert words in refusal(layer, image_of(layer, tmp_path / "image"), workers)


def tree(*names: tuple[bytes, Inode]) -> Tree:
    return Tree(Directory(Inode(FileType.DIR, 0o755), dict(names)))


def test_hardlinks_are_the_same_ones() -> None:
    one, two, three = (Inode(FileType.FILE, 0o644, size=0) for _ in range(3))
    linked, apart = tree((b"a", one), (b"b", one)), tree((b"a", two), (b"b", three))
    assert difference(linked, linked) == difference(apart, tree((b"a", three), (b"b", two))) == ""
    assert difference(linked, apart).endswith("a hardlink to something else")
    assert difference(apart, linked).endswith("a hardlink to something else")
    gone = tree((b"a", Inode(FileType.WHITEOUT, 0)), (b"b", Inode(FileType.WHITEOUT, 0)))
    assert difference(gone, tree((b"a", WHITEOUT), (b"b", WHITEOUT))) == "", "all whiteouts share an inode, which means nothing"


def test_what_stargz_adds_is_passed_over_only_as_it_adds_it() -> None:
    toc = Digest.of(b"the table")
    table = tree()
    text = Inode(FileType.FILE, 0o444, size=9, content=Content.of_sha256(toc.raw))
    mark = Inode(FileType.FILE, 0, size=1, data=b"\x0f")
    name, landmark = b"stargz.index.json", b".prefetch.landmark"
    honest = tree((name, text), (landmark, mark), (b".no.prefetch.landmark", mark))
    assert difference(table, honest, toc) == ""
    assert difference(table, honest).endswith("only in the layer"), "podman's format has none of them"
    odd: dict[str, tuple[bytes, Node]] = {
        "another text": (name, replace(text, content=Content.of_sha256(bytes(32)))),
        "another mark": (landmark, replace(mark, data=b"\x0e")),
        "a long mark": (landmark, replace(mark, size=2, data=b"\x0f\x0f")),
        "setuid": (name, replace(text, mode=0o4444)),
        "a program": (landmark, replace(mark, mode=0o100)),
        "xattrs": (landmark, replace(mark, xattrs=((b"security.capability", b"1"),))),
        "a symlink": (landmark, Inode(FileType.SYMLINK, 0o777, target=b"etc/passwd")),
        "a whiteout": (landmark, WHITEOUT),
        "a folder": (landmark, Directory(Inode(FileType.DIR, 0o755))),
    }
    for what, (path, node) in odd.items():
        layer = Tree(Directory(Inode(FileType.DIR, 0o755), {path: node}))
        assert difference(table, layer, toc).endswith("only in the layer"), what
    below = Tree(Directory(Inode(FileType.DIR, 0o755), {b"d": honest.root}))
    folders = Tree(Directory(Inode(FileType.DIR, 0o755), {b"d": table.root}))
    assert difference(folders, below, toc).endswith("only in the layer"), "they lie in the root"


def test_times_are_rounded_by_stargz_alone() -> None:
    def at(seconds: int, ns: int) -> Tree:
        return tree((b"a", Inode(FileType.FIFO, 0o644, mtime=seconds, mtime_ns=ns)))

    toc = Digest.of(b"")
    exact = at(10, 700_000_000)
    assert difference(exact, exact) == difference(exact, exact, toc) == difference(at(11, 0), exact, toc) == ""
    for wrong in (at(10, 0), at(11, 700_000_000), at(12, 0)):
        assert "another time" in difference(wrong, exact, toc)
    assert "another time" in difference(at(11, 0), exact)


def test_a_file_to_whose_content_the_table_does_not_commit() -> None:
    known, unknown = (Inode(FileType.FILE, 0o644, size=5, content=Content(bytes(32), sha256)) for sha256 in (bytes(32), None))
    assert difference(tree((b"a", unknown)), tree((b"a", known))) == "a: another content"


@pytest.mark.parametrize("flavour", ["estargz", "external", "podman"])
def test_the_digest_of_another_layers_table(flavour: str, workers: Workers, tmp_path: Path) -> None:
    evil, good = b"e" * 2500, b"g" * 2500
    victim, liar = layer_of(flavour, good), layer_of(flavour, evil)
    # The annotation alone is exchanged.
    annotated = replace(liar, descriptor=replace(liar.descriptor, annotations=victim.descriptor.annotations))
    assert "DigestMismatch" in refusal(annotated, image_of(liar, tmp_path / "one"), workers)
    # And with the other's table at the end of the blob: sizes and places are the same, so it can be read.
    made = writer_of(flavour, evil)
    theirs = writer_of(flavour, good)
    forged = finish(flavour, made, document_of(theirs.rows))
    key = ZSTD_CHUNKED_TOC if flavour == "podman" else STARGZ_TOC
    assert forged.descriptor.annotations[key] == victim.descriptor.annotations[key]
    assert refusal(forged, image_of(forged, tmp_path / "two"), workers).endswith("differ: d/a: another content")


def test_annotations_that_say_too_much_or_nothing(workers: Workers, tmp_path: Path) -> None:
    layer = layer_of("podman")
    image = image_of(layer, tmp_path / "image")
    annotations = {**layer.descriptor.annotations, STARGZ_TOC: SHA}
    both = replace(layer, descriptor=replace(layer.descriptor, annotations=annotations))
    assert "annotated both" in refusal(both, image, workers)
    other = replace(layer, descriptor=replace(layer.descriptor, media_type="application/vnd.oci.image.layer.v1.tar"))
    assert "no table of contents" in refusal(other, image, workers)
    assert read_index(Shelf(other), other.descriptor, workers, tag="one", stall=STALL) is None


def test_an_external_table_that_is_nowhere(workers: Workers, tmp_path: Path) -> None:
    layer = layer_of("external")
    shelf = shelf_of(layer)

    def read(source: Shelf, tag: str = "one", **limits: int) -> str:
        with pytest.raises(AlsError) as caught:
            read_index(source, layer.descriptor, workers, tag=tag, stall=STALL, limits=replace(DEFAULT_LIMITS, **limits))
        return f"{type(caught.value).__name__} {caught.value.what}"

    assert "named by a digest" in read(shelf, tag="")
    assert "NotFound" in read(shelf, tag="two")
    assert "LimitExceeded a table of contents of" in read(shelf, toc_bytes=10)
    other = shelf_of(layer_of("external", b"other" * 9))
    assert "has none for it" in read(replace(shelf, manifests=other.manifests))
    long = {digest: data + b"more" for digest, data in shelf.blobs.items()}
    assert "longer than its manifest says" in read(replace(shelf, blobs=long))
    assert "BadImage" in read(replace(shelf, blobs={digest: data[:-20] for digest, data in shelf.blobs.items()}))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_layer_that_was_just_read_is_not_asked_for_again(flavour: str, workers: Workers) -> None:
    layer = layer_of(flavour, random.Random(1).randbytes(10_000))
    shelf = shelf_of(layer)
    for kept, from_memory in ((1 << 20, True), (10, False)):
        source = TailKept(shelf, kept)
        assert b"".join(source.blob(layer.descriptor)) == layer.blob
        shelf.ranges.clear()
        assert read_index(source, layer.descriptor, workers, tag="one", stall=STALL) is not None
        assert (shelf.ranges == []) is from_memory
        for offset, length in ((0, 10), (layer.descriptor.size - 7, 7), (layer.descriptor.size - 3000, 1500)):
            assert source.read_at(layer.descriptor, offset, length) == layer.blob[offset : offset + length]
    cut = TailKept(shelf)
    next(cut.blob(layer.descriptor))
    shelf.ranges.clear()
    assert cut.read_at(layer.descriptor, 0, 5) == layer.blob[:5]
    assert shelf.ranges == [(0, 5)], "what was not read to its end is no tail"


def test_ranges_of_registries(workers: Workers, module_dir: Path, tmp_path: Path) -> None:
    """One that knows ranges, and one that sends the whole blob for each."""
    layer = layer_of("podman", random.Random(2).randbytes(1_000_000))
    layout = Layout(tmp_path / "images")
    digest, size = layout.add_blob(layer.blob)
    annotations = dict(layer.descriptor.annotations)
    layout.add_image("one", [LayerBlob(digest, size, layer.diff_id, layer.descriptor.media_type, annotations)])
    with RegistryServer(module_dir / "registry") as server, GatedRegistry(layout) as gated:
        server.push(layout.name("one"), "any/one:one", "--preserve-digests")
        for address in (server.address, gated.address):
            endpoint = Endpoint(address, "any/one", insecure=True)
            source = RegistryImages(workers, {"endpoints": [endpoint.to_json()]}, "one", stall=STALL)
            try:
                for offset, length in ((0, 1), (1, size - 1), (size - 5000, 100), (0, size), (size - 1, 1)):
                    assert source.read_at(layer.descriptor, offset, length) == layer.blob[offset : offset + length]
                assert read_index(source, layer.descriptor, workers, tag="one", stall=STALL) is not None
            finally:
                source.close()
        assert {status for method, path, status in server.requests() if digest in path and method == "GET"} == {206}


@pytest.mark.parametrize(
    ("how", "flavour", "error"),
    [
        ("other text", "estargz", DigestMismatch),
        ("other text", "external", DigestMismatch),
        ("other text", "stargz zstd", DigestMismatch),
        ("uncommitted", "podman", WorkerError),
        ("odd places", "podman", WorkerError),
        ("no places", "podman", WorkerError),
        ("garbage", "podman", WorkerError),
        ("beyond", "podman", WorkerError),
        ("before", "estargz", WorkerError),
        ("text", "estargz", WorkerError),
        ("for ever", "estargz", WorkerError),
        ("empty", "estargz", WorkerError),
        ("death", "estargz", WorkerError),
        ("silence", "estargz", DeadlineExceeded),
        ("index of another", "estargz", WorkerError),
        ("index torn", "estargz", BadImage),
        ("index garbage", "estargz", WorkerError),
        ("index silence", "estargz", DeadlineExceeded),
    ],
)
def test_workers_that_were_taken_over(how: str, flavour: str, error: type[AlsError], liars: Workers) -> None:
    layer = layer_of(flavour, bytes(range(256)) * 40)
    annotations = {**layer.descriptor.annotations, "how": how}
    wanted = replace(layer.descriptor, annotations=annotations)
    shelf = Shelf(replace(layer, descriptor=wanted))
    with pytest.raises(error) as caught:
        read_index(shelf, wanted, liars, tag="one", stall=1.0 if error is DeadlineExceeded else STALL)
    assert type(caught.value) is error


def test_nobody_reads_compressed_bytes_that_the_manifest_does_not_commit_to(liars: Workers) -> None:
    """Only a footer's worth is handed over before the digest of the rest is known to be right."""
    layer = layer_of("podman", bytes(range(256)) * 40)
    annotations = {**layer.descriptor.annotations, "how": "uncommitted"}
    shelf = Shelf(replace(layer, descriptor=replace(layer.descriptor, annotations=annotations)))
    with pytest.raises(WorkerError):
        read_index(shelf, shelf.layer.descriptor, liars, tag="one", stall=STALL)
    assert shelf.ranges == []
