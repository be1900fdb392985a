"""Which image a manifest or index stands for: this machine's, or whichever a client may have meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from als.errors import BadImage
from als.fetch.source import ImageSource, read_blob
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS
from als.model.manifest import Index, Manifest, candidates, choose, parse_manifest
from als.model.platform import Platform
from als.registry.source import RawManifest
from als.store.images import ImageRecord

_MAX_INDEX_DEPTH = 3


Foresee = Callable[[Manifest, ImageSource], None]
"""Is told of a manifest, and through what it came."""


def overlook(manifest: Manifest, source: ImageSource) -> None:
    """Nobody is to be told of a manifest."""


def images_of(
    source: ImageSource,
    raw: RawManifest,
    platform: Platform,
    where: str,
    *,
    any_platform: bool,
    foresee: Foresee = overlook,
) -> Iterator[ImageRecord]:
    """The image behind a manifest or index; with `any_platform`, this machine's first and then the others.

    :param foresee: told of each manifest before its configuration is asked for.
    :raises NotFound: there is none for this machine.
    :raises BadImage: the documents are malformed, or nested too deep.
    """
    seen: set[Digest] = set()
    for chosen in _manifests(source, raw, platform, where, any_platform=any_platform, depth=0):
        if chosen.digest in seen:
            continue
        seen.add(chosen.digest)
        manifest = parse_manifest(chosen.data, chosen.media_type)
        if isinstance(manifest, Index):
            raise BadImage("an index where a manifest was promised", where=where)
        foresee(manifest, source)
        config = read_blob(source, manifest.config, DEFAULT_LIMITS.config_bytes)
        yield ImageRecord.parse(manifest.media_type, chosen.data, config)


def _manifests(
    source: ImageSource, raw: RawManifest, platform: Platform, where: str, *, any_platform: bool, depth: int
) -> Iterator[RawManifest]:
    parsed = parse_manifest(raw.data, raw.media_type)
    if not isinstance(parsed, Index):
        yield raw
        return
    if depth >= _MAX_INDEX_DEPTH:
        raise BadImage("indexes within indexes without end", where=where)
    if any_platform:
        first = candidates(parsed, platform)
        chosen = [*first, *(descriptor for descriptor in parsed.manifests if descriptor not in first)]
    else:
        chosen = [choose(parsed, platform)]
    for descriptor in chosen:
        inner = source.manifest(str(descriptor.digest))
        yield from _manifests(source, inner, platform, where, any_platform=any_platform, depth=depth + 1)
