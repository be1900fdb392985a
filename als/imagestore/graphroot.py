"""The graph root of a client (podman, CRI-O, Buildah): which layers it names and does not have itself.

Files and fields are those of go.podman.io/storage: ``overlay-layers/layers.json`` and ``volatile-layers.json`` (``layers.go``:
id, parent), ``overlay-images/images.json`` (``images.go``: layer, mapped-layers), ``overlay-containers/containers.json`` and
``volatile-containers.json`` (``containers.go``: layer). With ``transient_store`` some of them lie below the run root.

A layer the client lists is its own if ``overlay/<id>/diff`` is a directory. Where that is a symlink the content is somebody
else's; and what it names without listing it (as parent or top layer) comes from an additional image store.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from als.errors import StoreDamaged, StoreError
from als.imagestore.lock import reading
from als.native.refusal import Refusal, refusal

_LOCK_SECONDS = 10.0
_MAX_BYTES = 1 << 28
_LAYERS = ("layers.json", "volatile-layers.json")
_CONTAINERS = ("containers.json", "volatile-containers.json")


@dataclass(frozen=True, slots=True)
class Named:
    """A layer that a client names, and as what."""

    layer: str
    kind: str
    """image or container (its top layer), layer (its parent, or itself)."""
    name: str
    """Of that image, container or layer."""


def read_graph_root(graph: Path, run: Path | None = None) -> set[Named]:
    """The layers that a client takes from elsewhere.

    :param run: its run root.
    :raises StoreError: it is there but cannot be read, or is no graph root of the overlay driver that we understand.
    """
    folders = [graph] if run is None else [graph, run]
    try:
        with ExitStack() as held:
            # The client's own order: layers, then images, then containers.
            for part in ("layers", "images", "containers"):
                held.enter_context(reading(graph / f"overlay-{part}" / f"{part}.lock", _LOCK_SECONDS))
            layers = [entry for folder in folders for entry in _entries(folder / "overlay-layers", _LAYERS)]
            images = [entry for folder in folders for entry in _entries(folder / "overlay-images", ("images.json",))]
            containers = [entry for folder in folders for entry in _entries(folder / "overlay-containers", _CONTAINERS)]
            own = {str(entry.get("id")) for entry in layers if _is_own(graph / "overlay" / str(entry.get("id")) / "diff")}
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=str(error.filename or graph)) from error
    return {named for named in (*_of_layers(layers), *_of_tops(images, "image"), *_of_tops(containers, "container"))
            if named.layer and named.layer not in own}  # fmt: skip


def read_lookups(graph: Path) -> Counter[tuple[str, str]]:
    """How often a client holds which layer through an Additional Layer Store, by reference and digest.

    It notes that in ``overlay/<id>/additionallayer``, the path of the layer's directory in the store (go.podman.io/storage
    ``drivers/overlay/overlay.go``: CreateAs), whether it lists its layer or not. Which store it is does not matter: one may be
    reached by several paths, and to count a foreign one keeps no more than its like of ours.

    :raises StoreError: it is there but cannot be read.
    """
    found: Counter[tuple[str, str]] = Counter()
    overlay = graph / "overlay"
    try:
        names = os.listdir(overlay) if overlay.is_dir() else []
        for name in names:
            try:
                data = _read(overlay / name / "additionallayer")
            except (FileNotFoundError, NotADirectoryError):
                continue
            *_, folder, digest = ("", "", *os.fsdecode(data).split("/"))
            with contextlib.suppress(ValueError):
                found[base64.b64decode(folder, validate=True).decode(), digest] += 1
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=str(error.filename or graph)) from error
    return found


def _of_layers(entries: list[dict[str, Any]]) -> Iterator[Named]:
    for entry in entries:
        name = str(entry.get("id", ""))
        yield Named(name, "layer", name[:12])
        yield Named(str(entry.get("parent") or ""), "layer", name[:12])


def _of_tops(entries: list[dict[str, Any]], kind: str) -> Iterator[Named]:
    for entry in entries:
        names = entry.get("names") or [str(entry.get("id", ""))[:12]]
        for layer in (entry.get("layer"), *(entry.get("mapped-layers") or ())):
            yield Named(str(layer or ""), kind, str(names[0]))


def _entries(folder: Path, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for name in names:
        path = folder / name
        try:
            data = _read(path)
        except FileNotFoundError:
            continue
        try:
            value = json.loads(data) if data.strip() else []
        except (ValueError, RecursionError) as error:
            raise StoreDamaged(f"not valid JSON: {error}", where=str(path)) from error
        if not isinstance(value, list | None) or not all(isinstance(entry, dict) for entry in value or ()):
            raise StoreDamaged("not a list of records", where=str(path))
        yield from value or ()


def _read(path: Path) -> bytes:
    # A rootless client's files belong to a user: a fifo or a device in their place must not catch us.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise StoreDamaged("not a regular file of a credible size", where=str(path))
        return file.read(_MAX_BYTES)


def _is_own(diff: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(diff).st_mode)
    except OSError as error:
        if refusal(error) is not Refusal.MISSING:
            raise
        return False
