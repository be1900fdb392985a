"""Chain IDs: the names that containers/storage gives to a layer on top of its parents.

The rule for DiffIDs is the OCI image specification's (config.md, "Layer ChainID") except that containers/storage drops
the ``sha256:`` prefix; the rule for layers identified by their table of contents is containers/image's
(``storage/storage_dest.go``, ``layerID``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from als.model.digest import Digest


def chain_id(parent: str, diff_id: Digest) -> str:
    """The hex ID of the layer with this DiffID on top of the layer `parent` ("" for the first)."""
    if not parent:
        return diff_id.hex
    return hashlib.sha256(f"{parent}+{diff_id.hex}".encode()).hexdigest()


def toc_chain_id(parent: str, toc_digest: Digest) -> str:
    """The hex ID of a layer that is identified by its table of contents, on top of `parent` ("" for the first)."""
    return hashlib.sha256(f"{parent}+@TOC={toc_digest.hex}".encode()).hexdigest()


def chain_ids(diff_ids: Sequence[Digest]) -> tuple[str, ...]:
    """The chain IDs of an image's layers, bottom first."""
    result: list[str] = []
    parent = ""
    for diff_id in diff_ids:
        parent = chain_id(parent, diff_id)
        result.append(parent)
    return tuple(result)


def toc_chain_ids(diff_ids: Sequence[Digest], toc_digests: Sequence[Digest | None]) -> tuple[str, ...]:
    """The IDs of an image's layers, bottom first, for a client that identified those by TOC that have one."""
    result: list[str] = []
    parent = ""
    for diff_id, toc in zip(diff_ids, toc_digests, strict=True):
        parent = chain_id(parent, diff_id) if toc is None else toc_chain_id(parent, toc)
        result.append(parent)
    return tuple(result)
