"""Manifests, indexes and image configurations: OCI image specification 1.1 and Docker's schema 2.

Parsing is strict about types and about ambiguity, and lenient about what is unknown. A document that can be read both as
a manifest and as an index, or whose own media type is not the one it was served as, is refused: two readers would see
two images in it (CVE-2021-41190).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from als.errors import BadImage, LimitExceeded, NotFound, Unsupported
from als.model.digest import Digest
from als.model.document import Fields, parse_object
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.platform import Platform

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
_MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
_INDEXES = (OCI_INDEX, DOCKER_LIST)

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that names an image within an OCI layout."""
STARGZ_TOC = "containerd.io/snapshot/stargz/toc.digest"
"""The annotation with the digest of an eStargz layer's table of contents (stargz-snapshotter, ``docs/estargz.md``)."""
ZSTD_CHUNKED_TOC = "io.github.containers.zstd-chunked.manifest-checksum"
"""The annotation with the digest of a zstd:chunked layer's manifest (containers/storage, ``pkg/chunked/internal/minimal``)."""
_ZSTD_INSTANCE = "io.github.containers.compression.zstd"
_REFERENCE_TYPE = "vnd.docker.reference.type"

_SPELLING = {name.lower(): name for name in ("schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers")}
_NO_ANNOTATIONS: Mapping[str, str] = MappingProxyType({})


class LayerCompression(enum.Enum):
    """How a layer's media type says its tar stream is compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


_OCI_LAYERS = ("application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar")
_DOCKER_LAYERS = ("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to a blob or manifest: what it is, its digest, its size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=lambda: _NO_ANNOTATIONS, hash=False)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration and its layers, bottom first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=lambda: _NO_ANNOTATIONS, hash=False)


@dataclass(frozen=True, slots=True)
class Index:
    """Several images (or indexes) under one name."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=lambda: _NO_ANNOTATIONS, hash=False)


@dataclass(frozen=True, slots=True)
class History:
    """How one layer, or none, came to be."""

    created: str = ""
    created_by: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What als needs of an image's configuration; `created` is RFC 3339 text as written, or empty."""

    architecture: str
    os: str
    variant: str
    diff_ids: tuple[Digest, ...]
    history: tuple[History, ...] = ()
    created: str = ""


def parse_manifest(data: bytes, media_type: str | None, limits: Limits = DEFAULT_LIMITS) -> Manifest | Index:
    """Read a manifest or an index.

    :param media_type: what it was served as; None or a type that says nothing (``application/json``): the document decides.
    :raises BadImage: malformed or ambiguous.
    :raises Unsupported: Docker's schema 1, or something that is no image.
    """
    served = (media_type or "").partition(";")[0].strip().lower()
    if served in SCHEMA1:
        raise Unsupported("Docker's image format of before 2016 (schema 1)", where="manifest", hint="push the image again")
    fields = parse_object(data, what="manifest", limit=limits.manifest_bytes)
    _check_spelling(fields)
    version = fields.integer("schemaVersion", 2)
    if version != 2:
        raise Unsupported(f"manifest schema {version}", where="manifest", hint="only schema 2 is supported")
    own = fields.text("mediaType", "")
    known = (*_MANIFESTS, *_INDEXES)
    if own and own not in known:
        raise Unsupported(f"media type {own[:100]!r}", where="manifest")
    if own and served in known and own != served:
        raise BadImage(f"says it is {own}, but was served as {served}", where="manifest")
    kind = own or (served if served in known else _guess(fields))
    return _index(fields, kind) if kind in _INDEXES else _manifest(fields, kind, limits)


def _check_spelling(fields: Fields) -> None:
    """Refuse ``Layers`` beside or instead of ``layers``: Go's decoder, and so every client, would take it for the same."""
    for name in fields.names():
        known = _SPELLING.get(name.lower())
        if known is not None and name != known:
            raise BadImage(f"the field {name!r} is written in another case than {known!r}", where="manifest")


def _guess(fields: Fields) -> str:
    """The kind of a document that nothing names; OCI made `mediaType` optional, Docker's formats always have it."""
    return OCI_INDEX if "manifests" in fields else OCI_MANIFEST


def _manifest(fields: Fields, media_type: str, limits: Limits) -> Manifest:
    if "manifests" in fields:
        raise BadImage("both a manifest and an index", where="manifest")
    config = _descriptor(fields.child("config"))
    if config.size > limits.config_bytes:
        raise LimitExceeded(f"a configuration of {config.size} bytes", where="manifest")
    layers = tuple(_descriptor(layer) for layer in fields.children("layers"))
    if any(layer.size > limits.layer_bytes for layer in layers):
        raise LimitExceeded(f"a layer of more than {limits.layer_bytes} bytes", where="manifest")
    return Manifest(media_type, config, layers, fields.text_map("annotations"))


def _index(fields: Fields, media_type: str) -> Index:
    if "layers" in fields or "config" in fields or "fsLayers" in fields:
        raise BadImage("both a manifest and an index", where="manifest")
    manifests = tuple(_descriptor(manifest) for manifest in fields.children("manifests"))
    return Index(media_type, manifests, fields.text_map("annotations"))


def _descriptor(fields: Fields) -> Descriptor:
    platform = fields.optional_child("platform")
    return Descriptor(
        media_type=fields.text("mediaType"),
        digest=Digest.parse(fields.text("digest")),
        size=fields.integer("size"),
        annotations=fields.text_map("annotations"),
        platform=None if platform is None else _platform(platform),
        urls=fields.texts("urls", required=False),
    )


def _platform(fields: Fields) -> Platform:
    return Platform(fields.text("os", ""), fields.text("architecture", ""), fields.text("variant", ""))


def parse_config(data: bytes, limits: Limits = DEFAULT_LIMITS) -> ImageConfig:
    """Read an image's configuration (OCI and Docker write the same fields).

    :raises BadImage: malformed, or not an image's.
    """
    fields = parse_object(data, what="image configuration", limit=limits.config_bytes)
    rootfs = fields.child("rootfs")
    if rootfs.text("type", "layers") != "layers":
        raise Unsupported("a root file system that is not made of layers", where="image configuration")
    history = fields.children("history", required=False)
    return ImageConfig(
        architecture=fields.text("architecture", ""),
        os=fields.text("os", ""),
        variant=fields.text("variant", ""),
        diff_ids=tuple(Digest.parse(text) for text in rootfs.texts("diff_ids", required=False)),
        history=tuple(
            History(entry.text("created", ""), entry.text("created_by", ""), entry.boolean("empty_layer", False))
            for entry in history
        ),
        created=fields.text("created", ""),
    )


def candidates(index: Index, platform: Platform) -> tuple[Descriptor, ...]:
    """The images of an index that fit a platform, the best first: exact variants before lesser ones, images without a
    platform last; among equals zstd before gzip (as containers/image since 5.28), then in the index's order."""
    wanted = platform.compatible()
    ranked: list[tuple[int, bool, int, Descriptor]] = []
    for position, descriptor in enumerate(index.manifests):
        if _is_attestation(descriptor):
            continue
        if descriptor.platform is None:
            rank = len(wanted)
        elif descriptor.platform in wanted:
            rank = wanted.index(descriptor.platform)
        else:
            continue
        zstd = index.media_type == OCI_INDEX and descriptor.annotations.get(_ZSTD_INSTANCE) == "true"
        ranked.append((rank, not zstd, position, descriptor))
    ranked.sort(key=lambda candidate: candidate[:3])
    return tuple(descriptor for *_, descriptor in ranked)


def choose(index: Index, platform: Platform) -> Descriptor:
    """The image of an index that containers/image would take on this platform.

    :raises NotFound: there is none for it.
    """
    fitting = candidates(index, platform)
    if not fitting:
        offered = sorted({str(d.platform) for d in index.manifests if d.platform and not _is_attestation(d)})
        raise NotFound(f"no image for {platform}", where="index", hint=f"it has {', '.join(offered[:20]) or 'none'}")
    return fitting[0]


def _is_attestation(descriptor: Descriptor) -> bool:
    """Whether this is BuildKit's record about another image of the index instead of an image."""
    unknown = descriptor.platform is not None and descriptor.platform.os == descriptor.platform.architecture == "unknown"
    return unknown or _REFERENCE_TYPE in descriptor.annotations


def layer_compression(media_type: str) -> LayerCompression:
    """How a layer of this media type is compressed.

    The clients look at the blob's first bytes instead, so a reader of streams should treat this as the expectation only.

    :raises Unsupported: it is not the media type of a tar layer.
    """
    suffixes = {"gzip": LayerCompression.GZIP, "zstd": LayerCompression.ZSTD}
    for bases, separator in ((_OCI_LAYERS, "+"), (_DOCKER_LAYERS, ".")):
        for base in bases:
            if media_type == base:
                return LayerCompression.NONE
            head, _, suffix = media_type.rpartition(separator)
            if head == base and suffix in suffixes:
                return suffixes[suffix]
    raise Unsupported(f"layer of media type {media_type[:100]!r}", where="manifest")


def toc_digest(descriptor: Descriptor) -> Digest | None:
    """The digest of the layer's table of contents that the manifest commits to, or None.

    :raises BadImage: two formats claim the layer (containers/storage refuses it too), or it is not a digest.
    """
    values = [descriptor.annotations[key] for key in (STARGZ_TOC, ZSTD_CHUNKED_TOC) if key in descriptor.annotations]
    if len(values) > 1:
        raise BadImage("annotated both as eStargz and as zstd:chunked", where=f"layer {descriptor.digest}")
    return Digest.parse(values[0]) if values else None
