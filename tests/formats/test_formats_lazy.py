"""Every lazily readable format that discovery finds, over every fixture that is its own and over what upstream's tools make.

Nothing but ranges of a blob is read. A new format gets here by itself: it needs an ``INDEXED`` and an OCI layout.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from als.errors import BadImage, DigestMismatch
from als.formats.discovery import find_formats, find_indexed, format_of, indexed_format_of
from als.formats.headercheck import check_headers, headers_of
from als.formats.index import LayerIndex
from als.formats.lazy import BlobRange, ExternalToc, IndexedFormat, tree_of
from als.formats.units import read_chunk
from als.model.limits import DEFAULT_LIMITS
from als.model.manifest import STARGZ_TOC, ZSTD_CHUNKED_TOC
from tests.formats.lazylayers import LazyLayer, layers_of
from tests.formats.streams import rows
from tests.formats.truth import Rows, load_truth

INDEXED = find_indexed()
UPSTREAM = {
    "estargz": ("estargz", (), "estargz"),
    "prioritized": ("estargz", ("0", "0", "usr/bin/hello", "etc/passwd", "var/lib/one"), "estargz"),
    "minimum": ("estargz", ("65536", "20000"), "estargz"),
    "external": ("estargz-externaltoc", (), "estargz"),
    "lossless": ("estargz-externaltoc-lossless", (), "estargz"),
    "zstd": ("zstdchunked", (), "zstd:chunked"),
}
"""Layers of stargz-snapshotter's converter: its mode and options, and the format that it makes."""


def fixture_layers(fixtures: Path) -> Iterator[tuple[IndexedFormat, LazyLayer]]:
    for layout in sorted(fixtures.glob("*/oci-layout")):
        if layout.parent.name.startswith(("estargz-", "zstdchunked-")):
            for layer in layers_of(layout.parent):
                yield format_for(layer), layer


def format_for(layer: LazyLayer) -> IndexedFormat:
    found = indexed_format_of(INDEXED, layer.descriptor.media_type, layer.descriptor.annotations)
    assert found is not None, layer.name
    return found


def rounded(truth: Rows) -> Rows:
    """The truth as stargz-snapshotter keeps it: times to the second."""
    result: Rows = {}
    for path, row in truth.items():
        result[path] = dict(row)
        if "mtime" in row:
            mtime = row["mtime"]
            assert isinstance(mtime, list)
            result[path]["mtime"] = [mtime[0] + (mtime[1] >= 500_000_000), 0]
    return result


def check_layer(layer: LazyLayer, index: LayerIndex, truth: Rows) -> None:
    found = rows(tree_of(index))
    assert found.keys() == truth.keys(), layer.name
    for path, row in truth.items():
        assert found[path] == row, f"{layer.name} layer {layer.number}: {path}"


def check_contents(layer: LazyLayer, index: LayerIndex, seed: int) -> None:
    """Every chunk of every file in random order, each from its unit's range alone."""
    chance = random.Random(seed)
    todo = [(number, chunk) for number in range(len(index)) for chunk in index.chunks(number)]
    chance.shuffle(todo)
    files = {number: bytearray(index.size(number)) for number, _ in todo}
    for number, chunk in todo:
        data = b"" if chunk.hole else layer.unit(chunk.unit)
        files[number][chunk.offset : chunk.end] = read_chunk(index, chunk, data)
    for number, content in files.items():
        assert hashlib.sha256(content).digest() == index.sha256(number)
        assert layer.content(index, number) == content


def test_discovery() -> None:
    assert [each.name for each in INDEXED] == ["estargz", "zstd:chunked"]
    gzip, zstd = ("application/vnd.oci.image.layer.v1.tar+" + each for each in ("gzip", "zstd"))
    toc = {"containerd.io/snapshot/stargz/toc.digest": "x"}
    old = {"io.containers.zstd-chunked.manifest-checksum": "x"}
    found = {
        name: indexed_format_of(INDEXED, media_type, annotations)
        for name, media_type, annotations in (
            ("plain", gzip, {}),
            ("e", gzip, toc),
            ("z", zstd, {ZSTD_CHUNKED_TOC: "x"}),
            ("old", zstd, old),
            ("stargz", zstd, {**old, **toc}),
            ("both", zstd, {ZSTD_CHUNKED_TOC: "x", **toc}),
            ("both as gzip", gzip, {ZSTD_CHUNKED_TOC: "x", **toc}),
            ("toc of zstd", zstd, toc),
            ("docker", "application/vnd.docker.image.rootfs.diff.tar.gzip", toc),
        )
    }
    assert {name: each.name for name, each in found.items() if each is not None} == {
        "e": "estargz",
        "z": "zstd:chunked",
        "old": "zstd:chunked",
        "stargz": "zstd:chunked",
    }


@pytest.mark.parametrize("wanted", INDEXED, ids=lambda each: each.name)
def test_fixtures_equal_the_truth(wanted: IndexedFormat, fixtures_dir: Path) -> None:
    seen = 0
    for found, layer in fixture_layers(fixtures_dir):
        if found is not wanted:
            continue
        index = layer.index(wanted)
        truth = load_truth(fixtures_dir, "tiny")[layer.number].rows
        by_stargz = any(each.annotation == STARGZ_TOC for each in index.commitments)
        check_layer(layer, index, rounded(truth) if by_stargz else truth)
        check_contents(layer, index, 17)
        assert hashlib.sha256(layer.stream(index)).hexdigest() == layer.diff_id.removeprefix("sha256:")
        assert layer.stream(index, 777) == layer.stream(index)
        check_headers(index, headers_of([layer.stream(index)]))
        # What cannot be read lazily can be read whole.
        assert format_of(find_formats(), layer.descriptor.media_type, layer.descriptor.annotations).name == "tar"
        seen += 1
    assert seen >= 4


@pytest.mark.parametrize("kind", UPSTREAM)
def test_what_upstream_makes_equals_the_truth(kind: str, fixtures_dir: Path, upstream_tools: Path, tmp_path: Path) -> None:
    mode, options, name = UPSTREAM[kind]
    out = tmp_path / "out"
    command = [
        str(each) for each in (upstream_tools / "estargz-convert", mode, fixtures_dir / "plain-gzip-tiny", out, *options)
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    for layer in layers_of(out):
        wanted = format_for(layer)
        assert wanted.name == name
        index = layer.index(wanted)
        check_layer(layer, index, rounded(load_truth(fixtures_dir, "tiny")[layer.number].rows))
        check_contents(layer, index, 5)
        assert "sha256:" + hashlib.sha256(layer.stream(index)).hexdigest() == layer.diff_id
        check_headers(index, headers_of([layer.stream(index)]))
        assert (layer.toc is not None) == (mode != "estargz" and name == "estargz")
        if kind == "minimum":
            assert any(len(index.chunks_in(unit)) > 1 for unit in range(index.units))
            assert index.units > 1
        if kind == "prioritized":
            assert index.prefetch.end
            names = [index.entry(number).path for number in range(index.prefetch.names)]
            assert (b"./usr/bin/hello" in names and b"./etc/passwd" in names) or b"var/lib/one" in names
        else:
            assert index.prefetch.unwanted == (kind != "lossless")


@pytest.mark.parametrize("wanted", INDEXED, ids=lambda each: each.name)
def test_nothing_is_believed_before_it_is_verified(wanted: IndexedFormat, fixtures_dir: Path) -> None:
    layer = next(layer for found, layer in fixture_layers(fixtures_dir) if found is wanted and layer.toc is None)
    for annotation in [each.annotation for each in layer.index(wanted).commitments]:
        annotations = {**layer.descriptor.annotations, annotation: "sha256:" + "0" * 64}
        lied = replace(layer, descriptor=replace(layer.descriptor, annotations=annotations))
        with pytest.raises(DigestMismatch, match=str(layer.descriptor.digest)):
            lied.index(wanted)
    reader = wanted.read(layer.descriptor, DEFAULT_LIMITS)
    next(reader)
    with pytest.raises(BadImage, match="5 bytes came where"):
        reader.send(b"short")


def test_requests_are_few(fixtures_dir: Path) -> None:
    for wanted, layer in fixture_layers(fixtures_dir):
        layer.index(wanted)
        kinds = [type(each) for each in layer.asked]
        assert kinds == ([BlobRange, ExternalToc] if layer.toc is not None else [BlobRange]), layer.name
