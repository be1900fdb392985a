"""Every format that discovery finds, held to what a format promises, over every fixture that it says is its own.

A new format gets here by itself: it needs a ``FORMAT`` and an OCI layout among the fixtures.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from als.errors import Unsupported
from als.formats.base import Format
from als.formats.codecs import MAGIC_BYTES, decompressor, identify
from als.formats.discovery import find_formats, format_of
from tests.formats.streams import pieces, read_layer, refusal, rows
from tests.formats.truth import load_truth

FORMATS = find_formats()

ADDED_BY_TOOLS = {"/stargz.index.json", "/.prefetch.landmark", "/.no.prefetch.landmark"}
"""Entries that a conversion adds to the tar stream, where an unaware client sees them too."""


@dataclass(frozen=True)
class FixtureLayer:
    layout: str
    number: int
    blob: bytes
    diff_id: str

    @property
    def image(self) -> str:
        return "tinyp" if self.layout.endswith("-tinyp") else "tiny"

    @property
    def rewritten(self) -> bool:
        """Whether the layout's tool wrote a tar of its own from the source layer."""
        return not self.layout.startswith(("plain-", "soci-"))


def layers_of(fixtures: Path, wanted: Format) -> Iterator[FixtureLayer]:
    """Every layer of every OCI layout that `wanted` would be asked to read."""
    for layout in sorted(fixtures.glob("*/oci-layout")):
        folder = layout.parent

        def load(digest: str, folder: Path = folder) -> bytes:
            return (folder / "blobs" / digest.replace(":", "/")).read_bytes()

        for reference in json.loads((folder / "index.json").read_text("utf-8"))["manifests"]:
            manifest = json.loads(load(reference["digest"]))
            if "layers" not in manifest or manifest.get("artifactType") or "subject" in manifest:
                continue
            diff_ids = json.loads(load(manifest["config"]["digest"])).get("rootfs", {}).get("diff_ids", [])
            if len(diff_ids) != len(manifest["layers"]):
                continue
            for number, (layer, diff_id) in enumerate(zip(manifest["layers"], diff_ids, strict=True)):
                try:
                    found = format_of(FORMATS, layer["mediaType"], layer.get("annotations", {}))
                except Unsupported:
                    continue
                if found is wanted:
                    yield FixtureLayer(folder.name, number, load(layer["digest"]), diff_id)


def inflate(blob: bytes, sizes: tuple[int, ...] = (1 << 20,)) -> bytes:
    stream = decompressor(identify(blob[:MAGIC_BYTES]))
    result = b"".join(part for piece in pieces(blob, sizes) for part in stream.feed(piece))
    stream.finish()
    return result


def test_there_are_formats() -> None:
    assert [each.name for each in FORMATS].count("tar") == 1
    assert len({each.name for each in FORMATS}) == len(FORMATS)


def test_a_foreign_media_type_is_refused() -> None:
    with pytest.raises(Unsupported, match="application/json"):
        format_of(FORMATS, "application/json", {})


@pytest.mark.parametrize("wanted", FORMATS, ids=lambda each: each.name)
def test_layers_equal_the_truth(wanted: Format, fixtures_dir: Path) -> None:
    seen = set()
    for layer in layers_of(fixtures_dir, wanted):
        where = f"{layer.layout} layer {layer.number}"
        read = read_layer(inflate(layer.blob), wanted.parser)
        truth = load_truth(fixtures_dir, layer.image)[layer.number]
        found = {path: row for path, row in rows(read.tree()).items() if path not in ADDED_BY_TOOLS}
        assert found.keys() == truth.rows.keys(), where
        for path, row in truth.rows.items():
            assert found[path] == row, f"{where}: {path}"
        assert read.diff_id == layer.diff_id, where
        assert read.diff_id == truth.diff_id or layer.rewritten, where
        seen.add(layer.layout)
    assert seen, "no fixture for this format"


@pytest.mark.parametrize("wanted", FORMATS, ids=lambda each: each.name)
def test_pieces_of_any_size_give_the_same(wanted: Format, fixtures_dir: Path) -> None:
    layer = next(layers_of(fixtures_dir, wanted))
    raw = inflate(layer.blob)
    whole = read_layer(raw, wanted.parser)
    assert whole.stream == raw
    chance = random.Random(4)
    for _ in range(6):
        sizes = [chance.choice((1, 7, 511, 512, 513, 4096, 100_000)) for _ in range(50)]
        assert read_layer(raw, wanted.parser, sizes) == whole
        assert inflate(layer.blob, tuple(sizes)) == raw


@pytest.mark.parametrize("wanted", FORMATS, ids=lambda each: each.name)
def test_damaged_streams_are_read_or_refused(wanted: Format, fixtures_dir: Path) -> None:
    """Whatever is wrong with a stream, nothing but an AlsError comes of it; `refusal` lets any other exception through."""
    raw = inflate(next(layers_of(fixtures_dir, wanted)).blob)
    chance = random.Random(7)
    refused = 0
    for _ in range(60):
        damaged = bytearray(raw[: 200_000 + chance.randrange(100_000)])
        for _ in range(chance.randrange(1, 5)):
            damaged[chance.randrange(len(damaged) // 8)] = chance.randrange(256)
        refused += refusal(bytes(damaged), wanted.parser) is not None
    assert refused
    for _ in range(20):
        assert refusal(chance.randbytes(2048), wanted.parser) is not None


@pytest.mark.parametrize(
    "annotation", ["containerd.io/snapshot/overlaybd/blob-digest", "containerd.io/snapshot/nydus-bootstrap"]
)
def test_a_tar_of_something_else_is_no_tar_layer(annotation: str) -> None:
    (tar,) = (each for each in FORMATS if each.name == "tar")
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    assert tar.matches(media_type, {})
    assert not tar.matches(media_type, {annotation: "x"})


@pytest.mark.parametrize("image", ["tiny", "tinyp"])
def test_the_source_layers_equal_the_truth(image: str, fixtures_dir: Path) -> None:
    (tar,) = (each for each in FORMATS if each.name == "tar")
    for number, truth in enumerate(load_truth(fixtures_dir, image)):
        raw = inflate((fixtures_dir / "src-tars" / f"{image}-layer{number}.tar.gz").read_bytes())
        read = read_layer(raw, tar.parser)
        assert (read.diff_id, len(raw)) == (truth.diff_id, truth.tar_size)
        assert rows(read.tree()) == truth.rows
