"""``oci:`` and ``oci-archive:``, against the fixtures and what skopeo writes."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from als.errors import AlsError, BadImage, DigestMismatch, NotFound, Unsupported
from als.model.digest import Digest
from als.model.manifest import REF_NAME, Index, Manifest, parse_config, parse_manifest
from als.registry.archive import OciArchive
from als.registry.layout import OciLayout
from als.registry.source import LocalSource, read_verified
from tests.harness.system import run


@pytest.fixture
def layout(tmp_path: Path, fixtures_dir: Path) -> Path:
    """A copy of a fixture that may be damaged."""
    return Path(shutil.copytree(fixtures_dir / "plain-gzip-tiny", tmp_path / "layout"))


def as_layout(layout: Path) -> LocalSource:
    return OciLayout(layout)


def as_archive(layout: Path) -> LocalSource:
    with tarfile.open(layout.parent / "image.tar", "w") as archive:
        archive.add(layout, ".")
    return OciArchive(layout.parent / "image.tar")


both = pytest.mark.parametrize("source_of", [as_layout, as_archive])
SourceOf = Callable[[Path], LocalSource]


@both
def test_whole_image(source_of: SourceOf, layout: Path) -> None:
    source = source_of(layout)
    raw = source.manifest("tiny")
    assert source.manifest("") == source.manifest("@0") == source.manifest(str(raw.digest)) == raw
    manifest = parse_manifest(raw.data, raw.media_type)
    assert isinstance(manifest, Manifest)
    assert len(parse_config(read_verified(source, manifest.config.digest, 1 << 20)).diff_ids) == 2
    for layer in manifest.layers:
        expected = (layout / "blobs/sha256" / layer.digest.hex).read_bytes()
        place = source.local_blob(layer.digest)
        assert place.size == layer.size == len(expected)
        with place.path.open("rb") as file:
            file.seek(place.offset)
            assert file.read(place.size) == expected
        with source.blob(layer.digest, offset=5, length=100) as stream:
            assert stream.size == layer.size
            assert stream.read(60) + stream.read(60) == expected[5:105]
            assert stream.read(60) == b""
    source.close()


@both
def test_what_is_not_there(source_of: SourceOf, layout: Path) -> None:
    source = source_of(layout)
    for name in ("other", "@1", f"sha256:{'0' * 64}"):
        with pytest.raises(NotFound):
            source.manifest(name)
    with pytest.raises(NotFound):
        source.blob(Digest.of(b""))


@both
def test_several_images(source_of: SourceOf, layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    index["manifests"].append({**index["manifests"][0], "annotations": {REF_NAME: "team/app:1"}})
    (layout / "index.json").write_text(json.dumps(index))
    source = source_of(layout)
    assert source.manifest("team/app:1") == source.manifest("tiny") == source.manifest("@1")
    with pytest.raises(NotFound, match=r"team/app:1, tiny"):
        source.manifest("")


@both
def test_damage(source_of: SourceOf, layout: Path) -> None:
    digest = source_of(layout).manifest("").digest
    path = layout / "blobs/sha256" / digest.hex
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DigestMismatch):
        source_of(layout).manifest("tiny")
    (layout / "index.json").write_text("[]")
    with pytest.raises(BadImage):
        source_of(layout).manifest("tiny")
    (layout / "index.json").unlink()
    with pytest.raises(NotFound):
        source_of(layout).manifest("tiny")


def test_nested_index(fixtures_dir: Path) -> None:
    """An index within the index is handed out as it is; choosing is the caller's."""
    source = OciLayout(fixtures_dir / "soci-v2-tiny")
    raw = source.manifest("")
    inner = parse_manifest(raw.data, raw.media_type)
    assert isinstance(inner, Index)
    assert isinstance(parse_manifest(source.manifest(str(inner.manifests[0].digest)).data, None), Manifest)


def test_archive_by_skopeo(layout: Path, tmp_path: Path) -> None:
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:tiny", f"oci-archive:{tmp_path}/s.tar:some/name:1")
    archive = OciArchive(tmp_path / "s.tar")
    assert archive.manifest("some/name:1").data == OciLayout(layout).manifest("tiny").data


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        OciArchive(tmp_path / "missing")
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(b"x" * 5000))
    with pytest.raises(Unsupported, match="gzip"):
        OciArchive(path)
    path.write_bytes(b"x" * 5000)
    with pytest.raises(BadImage):
        OciArchive(path)
    with pytest.raises(BadImage):
        OciArchive(tmp_path)


def test_truncated_archives(layout: Path, tmp_path: Path) -> None:
    """Wherever an archive was cut off, there is an answer or one of our errors."""
    as_archive(layout)
    whole = (tmp_path / "image.tar").read_bytes()
    path = tmp_path / "cut.tar"
    for length in [*range(0, 3000, 97), *range(3000, len(whole), len(whole) // 40)]:
        path.write_bytes(whole[:length])
        try:
            source = OciArchive(path)
            raw = source.manifest("")
        except AlsError:
            continue
        assert raw.digest == Digest.of(raw.data)
