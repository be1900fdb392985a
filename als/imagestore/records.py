"""The entries of ``layers.json`` (go.podman.io/storage, ``layers.go``: type Layer)."""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from als.errors import BadImage, StoreDamaged
from als.model.chain import chain_ids, toc_chain_ids
from als.model.digest import Digest
from als.model.manifest import LayerCompression

COMPRESSION_NUMBER: Mapping[LayerCompression, int] = {
    LayerCompression.NONE: 0,
    LayerCompression.GZIP: 2,
    LayerCompression.ZSTD: 4,
}
"""go.podman.io/storage ``pkg/archive``: type Compression (1 is bzip2, 3 is xz)."""

_PLACE = ("id", "parent", "created", "uidset", "gidset")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_BLOB = "compressed-diff-digest"
_PROMISED = "expected-layer-diffid"


@dataclass(frozen=True, slots=True)
class PublishedLayer:
    """A layer at its place in an image."""

    chain_id: str
    parent: str
    """The chain ID of the layer below; "" for the first."""
    diff_id: Digest
    diff_size: int
    """Bytes of the uncompressed tar stream; -1 where they are not known, which only a lazy layer's may be."""
    blob: Digest | None
    """The compressed blob, if that is known to hold just this layer (als.store.layers.LayerRecord.blobs)."""
    blob_size: int
    """Bytes of the blob that the image's manifest names, whether or not that was verified."""
    compression: LayerCompression
    created: float
    """Seconds since the epoch."""
    toc: Digest | None = None
    uids: tuple[int, ...] = ()
    """Owners of files in the layer, if they are known: clients choose the size of user namespaces by them."""
    gids: tuple[int, ...] = ()
    lazy: str = ""
    """Key of the lazy layer (ROOT/lazy/<key>) that stands for it; "" for a complete one."""

    def to_json(self) -> dict[str, object]:
        """The entry as containers/storage writes it. Clients reuse a layer for any image that names one of its digests, so
        none is stated that was not verified: a lazy layer's DiffID is a flag that they read as a promise only
        (go.podman.io/image ``storage/storage_src.go``: expectedLayerDiffIDFlag)."""
        entry: dict[str, object] = {
            "id": self.chain_id,
            "created": time.strftime(_TIME, time.gmtime(self.created)),
            "diff-size": self.diff_size,
            "compression": COMPRESSION_NUMBER[self.compression],
        }
        if self.lazy:
            entry["flags"] = {_PROMISED: str(self.diff_id)}
        else:
            entry |= {"diff-digest": str(self.diff_id), **self._of_blob()}
        if self.parent:
            entry["parent"] = self.parent
        if self.toc is not None:
            entry["toc-digest"] = str(self.toc)
        if self.uids and self.gids:
            entry |= {"uidset": list(self.uids), "gidset": list(self.gids)}
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> PublishedLayer:
        """What :meth:`to_json` wrote, but for the key of a lazy layer, which is not in it.

        :raises StoreDamaged: it did not write that.
        """
        numbers = {number: compression for compression, number in COMPRESSION_NUMBER.items()}
        try:
            blob = entry.get(_BLOB)
            return cls(
                str(entry["id"]),
                str(entry.get("parent", "")),
                Digest.parse(str(entry["flags"][_PROMISED] if is_lazy(entry) else entry["diff-digest"])),
                int(entry["diff-size"]),
                None if blob is None else Digest.parse(str(blob)),
                0 if blob is None else int(entry["compressed-size"]),
                numbers[entry["compression"]],
                float(calendar.timegm(time.strptime(str(entry["created"]), _TIME))),
                Digest.parse(str(entry["toc-digest"])) if "toc-digest" in entry else None,
                tuple(int(uid) for uid in entry.get("uidset", ())),
                tuple(int(gid) for gid in entry.get("gidset", ())),
            )
        except (KeyError, ValueError, TypeError, BadImage) as error:
            raise StoreDamaged(f"an incomplete entry: {error}", where=f"layer {entry.get('id')}") from error

    def restated(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """This layer's entry, which was listed before: with the blob if only now it is known to hold the layer."""
        if self.lazy or is_lazy(entry) or _BLOB in entry:
            return dict(entry)
        return {**entry, **self._of_blob()}

    def _of_blob(self) -> dict[str, object]:
        return {} if self.blob is None else {_BLOB: str(self.blob), "compressed-size": self.blob_size}

    def info(self) -> dict[str, object]:
        """The ``info`` document of the ALS protocol: the same facts, without a place in an image."""
        return {key: value for key, value in self.to_json().items() if key not in _PLACE}


def is_lazy(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is of a lazy layer: nobody has computed its DiffID yet."""
    return "diff-digest" not in entry and "toc-digest" in entry


def by_toc(layers: Sequence[PublishedLayer]) -> list[PublishedLayer]:
    """An image's layers, from the lowest on, with the IDs of a client that identified those by TOC that have one."""
    return _with_ids(layers, toc_chain_ids([layer.diff_id for layer in layers], [layer.toc for layer in layers]))


def by_diff_id(layers: Sequence[PublishedLayer]) -> list[PublishedLayer]:
    """An image's layers, from the lowest on, with the IDs that follow from their DiffIDs alone."""
    return _with_ids(layers, chain_ids([layer.diff_id for layer in layers]))


def _with_ids(layers: Sequence[PublishedLayer], chain: Sequence[str]) -> list[PublishedLayer]:
    parents = ("", *chain[:-1])
    return [replace(layer, chain_id=own, parent=parent) for layer, own, parent in zip(layers, chain, parents, strict=True)]


def parse_entries(data: bytes, where: str) -> list[dict[str, Any]]:
    """The entries of a layers.json that we wrote; empty data is an empty list.

    :raises StoreDamaged: it is something else.
    """
    hint = "stop its users and run `als serve`, which writes it again"
    try:
        value = json.loads(data or b"[]")
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"not valid JSON: {error}", where=where, hint=hint) from error
    if not isinstance(value, list) or not all(isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in value):
        raise StoreDamaged("not a list of layers", where=where, hint=hint)
    return value


def format_entries(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """A layers.json."""
    return json.dumps(list(entries)).encode()
