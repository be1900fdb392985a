"""Manifests, indexes and configurations: what real tools wrote, and what must not be believed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import BadImage, LimitExceeded, NotFound, Unsupported
from als.model import manifest as m
from als.model.digest import Digest
from als.model.limits import Limits
from als.model.manifest import Descriptor, Index, LayerCompression, Manifest, choose, parse_config, parse_manifest, toc_digest
from als.model.platform import Platform

GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
AMD64 = Platform("linux", "amd64")


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def descriptor(number: int, **more: Any) -> dict[str, Any]:
    return {"mediaType": m.OCI_MANIFEST, "digest": digest(number), "size": number, **more}


CONFIG = {**descriptor(1), "mediaType": m.OCI_CONFIG}
LAYER = {**descriptor(2), "mediaType": GZIP_LAYER}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "mediaType": m.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": m.OCI_INDEX, "manifests": [descriptor(3)]}


def parse(document: object, media_type: str | None = None) -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode(), media_type)


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


@pytest.mark.parametrize(
    "media_type", [None, "", m.OCI_MANIFEST, f"{m.OCI_MANIFEST}; charset=utf-8", "application/json", "text/plain"]
)
def test_manifest(media_type: str | None) -> None:
    expected = Manifest(
        m.OCI_MANIFEST,
        Descriptor(m.OCI_CONFIG, Digest.parse(digest(1)), 1),
        (Descriptor(GZIP_LAYER, Digest.parse(digest(2)), 2),),
    )
    assert parse(MANIFEST, media_type) == expected
    assert parse(without(MANIFEST, "mediaType"), media_type) == expected


def test_kinds() -> None:
    assert isinstance(parse(INDEX), Index)
    assert isinstance(parse(without(INDEX, "mediaType")), Index)
    assert parse({**MANIFEST, "mediaType": m.DOCKER_MANIFEST}, m.DOCKER_MANIFEST).media_type == m.DOCKER_MANIFEST
    assert parse({**INDEX, "mediaType": m.DOCKER_LIST}, m.DOCKER_LIST).media_type == m.DOCKER_LIST


def test_every_field_is_kept() -> None:
    full = descriptor(
        3, annotations={"a": "b"}, urls=["https://x"], platform={"os": "linux", "architecture": "arm", "variant": "v7"}
    )
    parsed = parse({**INDEX, "manifests": [full], "annotations": {"c": "d"}})
    assert isinstance(parsed, Index)
    (found,) = parsed.manifests
    assert found.annotations == {"a": "b"} and found.urls == ("https://x",) and parsed.annotations == {"c": "d"}
    assert found.platform == Platform("linux", "arm", "v7")
    assert hash(found) == hash(dataclasses.replace(found))
    with pytest.raises(TypeError):
        cast("dict[str, str]", found.annotations)["a"] = "c"


@pytest.mark.parametrize(
    "name", ["plain-gzip-tiny", "plain-zstd-tiny", "estargz-tiny", "zstdchunked-skopeo122-tiny", "soci-v2-tiny"]
)
def test_fixtures(fixtures_dir: Path, name: str) -> None:
    """Everything that upstream tools wrote parses, down to the configurations; DiffIDs and layers are as many."""

    def read(found: Descriptor) -> bytes:
        return (fixtures_dir / name / "blobs" / found.digest.algorithm / found.digest.hex).read_bytes()

    parsed = parse_manifest((fixtures_dir / name / "index.json").read_bytes(), None)
    while isinstance(parsed, Index):
        chosen = choose(parsed, AMD64)
        parsed = parse_manifest(read(chosen), chosen.media_type)
    config = parse_config(read(parsed.config))
    assert (config.os, config.architecture) == ("linux", "amd64")
    assert len(config.diff_ids) == len(parsed.layers) == 2
    expected = LayerCompression.ZSTD if "zstd" in name else LayerCompression.GZIP
    assert {m.layer_compression(layer.media_type) for layer in parsed.layers} == {expected}
    committed = "estargz" in name or "chunked" in name
    assert all((toc_digest(layer) is not None) == committed for layer in parsed.layers)


@pytest.mark.parametrize(
    "document",
    [
        [],
        5,
        without(MANIFEST, "config"),
        without(MANIFEST, "layers"),
        without(INDEX, "manifests"),
        {**MANIFEST, "layers": {}},
        {**MANIFEST, "layers": [5]},
        {**MANIFEST, "layers": None},
        {**MANIFEST, "config": []},
        {**MANIFEST, "schemaVersion": "2"},
        {**MANIFEST, "schemaVersion": True},
        {**MANIFEST, "mediaType": 5},
        {**MANIFEST, "manifests": []},
        {**INDEX, "layers": []},
        {**INDEX, "config": CONFIG},
        {**INDEX, "mediaType": m.OCI_MANIFEST},
        {**MANIFEST, "annotations": []},
        {**MANIFEST, "annotations": {"a": 5}},
        {**MANIFEST, "layers": [without(LAYER, "digest")]},
        {**MANIFEST, "layers": [without(LAYER, "size")]},
        {**MANIFEST, "layers": [without(LAYER, "mediaType")]},
        {**MANIFEST, "layers": [{**LAYER, "size": -1}]},
        {**MANIFEST, "layers": [{**LAYER, "size": 1.0}]},
        {**MANIFEST, "layers": [{**LAYER, "size": "1"}]},
        {**MANIFEST, "layers": [{**LAYER, "size": 2**63}]},
        {**MANIFEST, "layers": [{**LAYER, "size": 10**400}]},
        {**MANIFEST, "layers": [{**LAYER, "size": 1 << 50}]},
        {**MANIFEST, "layers": [{**LAYER, "digest": "sha256:../../x"}]},
        {**MANIFEST, "layers": [{**LAYER, "digest": digest(1).upper()}]},
        {**MANIFEST, "layers": [{**LAYER, "urls": "x"}]},
        {**MANIFEST, "config": {**CONFIG, "size": 1 << 40}},
        {**MANIFEST, "Layers": []},
        {**without(MANIFEST, "config"), "CONFIG": CONFIG},
        {**INDEX, "manifests": [descriptor(1, platform="linux")]},
        {**INDEX, "manifests": [descriptor(1, platform={"os": 5})]},
    ],
)
def test_malformed(document: object) -> None:
    with pytest.raises(BadImage):
        parse(document)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff{}",
        b'{"schemaVersion": 2, "schemaVersion": 2}',
        b'{"schemaVersion": NaN}',
        b'{"schemaVersion": ' + b"9" * 5000 + b"}",
        b'{"annotations": {"a": "\\ud800"}, "layers": [], "config": {}}',
        b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
)
def test_malformed_text(data: bytes) -> None:
    with pytest.raises(BadImage):
        parse_manifest(data, None)
    with pytest.raises(BadImage):
        parse_config(data)


def test_two_readings_are_refused() -> None:
    """CVE-2021-41190: the type it was served as and the document's own must agree."""
    with pytest.raises(BadImage, match="served as"):
        parse(MANIFEST, m.OCI_INDEX)
    with pytest.raises(BadImage, match="served as"):
        parse(MANIFEST, m.DOCKER_MANIFEST)


@pytest.mark.parametrize("served", m.SCHEMA1)
def test_schema_1(served: str) -> None:
    with pytest.raises(Unsupported, match="schema 1"):
        parse({"schemaVersion": 1, "fsLayers": []}, served)
    with pytest.raises(Unsupported):
        parse({"schemaVersion": 1, "fsLayers": []})
    with pytest.raises(Unsupported):
        parse({**MANIFEST, "mediaType": "application/vnd.oci.artifact.manifest.v1+json"})


def test_limits() -> None:
    data = json.dumps(MANIFEST).encode()
    with pytest.raises(LimitExceeded):
        parse_manifest(data, None, Limits(manifest_bytes=len(data) - 1))
    assert parse_manifest(data, None, Limits(manifest_bytes=len(data)))


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from([digest(1), m.OCI_INDEX, m.OCI_MANIFEST]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "schemaVersion",
                    "mediaType",
                    "config",
                    "layers",
                    "manifests",
                    "digest",
                    "size",
                    "annotations",
                    "platform",
                    "rootfs",
                    "diff_ids",
                    "history",
                    "os",
                ]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=25,
)


@given(JSON)
def test_any_document_parses_or_is_refused(document: object) -> None:
    data = json.dumps(document).encode()
    for parser in (lambda: parse_manifest(data, None), lambda: parse_config(data)):
        try:
            parser()
        except BadImage:
            continue


def test_config() -> None:
    document = {
        "architecture": "arm64",
        "os": "linux",
        "variant": "v8",
        "created": "2024-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": [digest(1), digest(2)]},
        "history": [{"created_by": "a", "empty_layer": True}, {"created": "2023-01-01T00:00:00Z"}],
        "config": {"Env": ["A=B"]},
    }
    config = parse_config(json.dumps(document).encode())
    assert config.diff_ids == (Digest.parse(digest(1)), Digest.parse(digest(2)))
    assert (config.architecture, config.os, config.variant) == ("arm64", "linux", "v8")
    assert config.history == (m.History("", "a", True), m.History("2023-01-01T00:00:00Z"))
    for wrong in ({}, {"rootfs": {"diff_ids": "x"}}, {"rootfs": {"diff_ids": [5]}}, {"rootfs": {"type": "other"}}):
        with pytest.raises(BadImage):
            parse_config(json.dumps(wrong).encode())


def index_of(*platforms: str | None, zstd: tuple[int, ...] = (), media_type: str = m.OCI_INDEX) -> Index:
    """An index with an image for each platform (``os/architecture/variant``); their sizes are their positions."""
    entries = []
    for position, text in enumerate(platforms):
        platform = None if text is None else Platform(*text.split("/"))
        annotations = {"io.github.containers.compression.zstd": "true"} if position in zstd else {}
        entries.append(Descriptor(m.OCI_MANIFEST, Digest.of(bytes([position])), position, annotations, platform))
    return Index(media_type, tuple(entries))


@pytest.mark.parametrize(
    ("index", "wanted", "position"),
    [
        (index_of("linux/arm64", "linux/amd64"), "linux/amd64", 1),
        (index_of("windows/amd64", "linux/amd64", "linux/amd64"), "linux/amd64", 1),
        (index_of("linux/arm/v5", "linux/arm/v6", "linux/arm/v7"), "linux/arm/v7", 2),
        (index_of("linux/arm/v5", "linux/arm/v6"), "linux/arm/v7", 1),
        (index_of("linux/arm/v7", "linux/arm/v5"), "linux/arm/v6", 1),
        (index_of("linux/arm/v7", "linux/arm"), "linux/arm/v6", 1),
        (index_of("linux/arm/v7", "linux/arm"), "linux/arm", 1),
        (index_of("linux/arm/v6", "linux/arm/v7"), "linux/arm", 1),
        (index_of("linux/arm/v7", "linux/arm/v8"), "linux/arm/v8", 1),
        (index_of("linux/arm64", "linux/arm64/v8"), "linux/arm64/v8", 1),
        (index_of("linux/arm64"), "linux/arm64/v8", 0),
        (index_of("linux/arm64/v8"), "linux/arm64", 0),
        (index_of("linux/arm64/v9", "linux/arm64"), "linux/arm64/v9", 0),
        (index_of("linux/amd64/v3", "linux/amd64"), "linux/amd64", 1),
        (index_of(None, "linux/amd64"), "linux/amd64", 1),
        (index_of("linux/s390x", None), "linux/amd64", 1),
        (index_of("linux/amd64", "linux/amd64", zstd=(1,)), "linux/amd64", 1),
        (index_of("linux/amd64", "linux/amd64", zstd=(1,), media_type=m.DOCKER_LIST), "linux/amd64", 0),
        (index_of("unknown/unknown", "linux/amd64"), "linux/amd64", 1),
        (index_of("linux/arm64"), "linux/amd64", None),
        (index_of("linux/arm/v8"), "linux/arm/v7", None),
        (index_of("linux/amd64/v3"), "linux/amd64", None),
        (index_of("unknown/unknown"), "unknown/unknown", None),
        (index_of(), "linux/amd64", None),
    ],
)
def test_choice(index: Index, wanted: str, position: int | None) -> None:
    """The expectations follow containers/image's platform_matcher.go and oci_index.go."""
    platform = Platform(*wanted.split("/"))
    if position is None:
        with pytest.raises(NotFound, match=wanted):
            choose(index, platform)
    else:
        assert choose(index, platform).size == position


def test_attestations_are_no_images() -> None:
    attestation = Descriptor(m.OCI_MANIFEST, Digest.of(b""), 1, {"vnd.docker.reference.type": "attestation-manifest"})
    with pytest.raises(NotFound):
        choose(Index(m.OCI_INDEX, (attestation,)), AMD64)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/vnd.oci.image.layer.v1.tar", LayerCompression.NONE),
        ("application/vnd.oci.image.layer.v1.tar+gzip", LayerCompression.GZIP),
        ("application/vnd.oci.image.layer.v1.tar+zstd", LayerCompression.ZSTD),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", LayerCompression.GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar", LayerCompression.NONE),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", LayerCompression.GZIP),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", LayerCompression.GZIP),
        ("application/vnd.oci.image.layer.v1.tar+xz", None),
        ("application/vnd.oci.image.layer.v1.tar.gzip", None),
        ("application/vnd.oci.image.layer.v1.tar+", None),
        ("application/vnd.oci.empty.v1+json", None),
        ("", None),
    ],
)
def test_layer_compression(media_type: str, expected: LayerCompression | None) -> None:
    if expected is None:
        with pytest.raises(Unsupported):
            m.layer_compression(media_type)
    else:
        assert m.layer_compression(media_type) is expected


def test_toc_digest() -> None:
    def of(**annotations: str) -> Digest | None:
        names = {"stargz": m.STARGZ_TOC, "zstd": m.ZSTD_CHUNKED_TOC}
        values = {names[name]: value for name, value in annotations.items()}
        return toc_digest(Descriptor(GZIP_LAYER, Digest.of(b""), 1, values))

    assert of() is None
    assert of(stargz=digest(1)) == of(zstd=digest(1)) == Digest.parse(digest(1))
    for wrong in ({"stargz": digest(1), "zstd": digest(1)}, {"stargz": ""}, {"zstd": "x"}):
        with pytest.raises(BadImage):
            of(**wrong)
