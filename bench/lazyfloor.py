"""What no way of lazy pulling can be faster than, on a given link.

A floor of three parts: round trips that depend on each other, the bytes that the container reads at the link's rate, and
podman's own start. Which files the container reads is seen from outside: after their pages were dropped from the cache and the
container ran from plain overlay storage, the kernel says how much of each file is there. The bytes are that part of the file's
units in the eStargz image (what a format with smaller units could do with), with manifest, configuration and table of contents.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from als.formats.discovery import find_indexed, indexed_format_of
from als.formats.index import LayerIndex
from als.formats.lazy import BlobRange, Request, run
from als.model.limits import DEFAULT_LIMITS
from als.model.manifest import Manifest, parse_manifest
from als.model.paths import clean
from tests.harness.disk import drop_from_cache
from tests.harness.podman import Podman
from tests.harness.registry import RegistryServer
from tests.harness.system import run as command_output

ROUND_TRIPS = ("connection", "/v2/", "manifest", "configuration, table of contents", "files")
"""What has to wait for what: each needs an answer to the one before. Files that lead to files would be more."""
_WARM_RUNS = 5
_FILES_AT_ONCE = 500


@dataclass(frozen=True)
class Floor:
    """Parts of it; seconds and bytes."""

    start: float
    """A warm ``podman run`` to its first output, from plain overlay."""
    files: int
    read: int
    """Bytes of the pages that were read."""
    needed: int
    """Compressed bytes of what holds them, and of what leads to it."""

    def seconds(self, megabits: float, round_trip: float) -> float:
        """On a link of so many Mbit/s and seconds."""
        return self.start + len(ROUND_TRIPS) * round_trip + self.needed * 8 / (megabits * 1e6)


def floor_of(podman: Podman, plain: str, estargz: str, registry: RegistryServer, command: tuple[str, ...]) -> Floor:
    """Measure it with a podman that has plain overlay storage; the image is pulled into it."""
    podman.pull(plain)
    warm = []
    for _ in range(_WARM_RUNS):
        begin = time.perf_counter()
        podman.run(plain, *command)
        warm.append(time.perf_counter() - begin)
    resident = _read_files(podman, plain, command)
    needed = _needed_bytes(registry, estargz, resident)
    return Floor(statistics.median(warm), len(resident), sum(resident.values()), needed)


def _read_files(podman: Podman, reference: str, command: tuple[str, ...]) -> dict[bytes, int]:
    """The files of the image that the container read, and how many bytes of each are in the page cache."""
    folders = sorted(podman.graph_root.glob("overlay/*/diff"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        drop_from_cache(path)
    podman.run(reference, *command)
    found: dict[bytes, int] = {}
    for path, resident in _resident(files):
        folder = next(each for each in folders if path.is_relative_to(each))
        if resident:
            found[bytes(path.relative_to(folder))] = resident
    return found


def _resident(files: list[Path]) -> Iterator[tuple[Path, int]]:
    for at in range(0, len(files), _FILES_AT_ONCE):
        some = files[at : at + _FILES_AT_ONCE]
        done = command_output("fincore", "--bytes", "--json", "--output", "RES,FILE", *some, status=None)
        yield from ((Path(row["file"]), int(row["res"])) for row in json.loads(done.stdout)["fincore"])


def _needed_bytes(registry: RegistryServer, reference: str, resident: Mapping[bytes, int]) -> int:
    """Compressed bytes of so much of these files, of manifest, configuration and tables of contents."""
    storage = registry.folder / "storage" / "docker" / "registry" / "v2"
    name, _, tag = reference.partition("/")[2].rpartition(":")
    link = storage / "repositories" / name / "_manifests" / "tags" / tag / "current" / "link"

    def blob(digest: str) -> Path:
        algorithm, _, text = digest.partition(":")
        return storage / "blobs" / algorithm / text[:2] / text / "data"

    data = blob(link.read_text("ascii")).read_bytes()
    manifest = parse_manifest(data, None)
    assert isinstance(manifest, Manifest)
    total = len(data) + manifest.config.size
    formats = find_indexed()
    for layer in manifest.layers:
        path = blob(str(layer.digest))
        found = indexed_format_of(formats, layer.media_type, layer.annotations)
        assert found is not None, f"{reference} is not lazily readable"
        asked: list[int] = []

        def answer(request: Request, path: Path = path, asked: list[int] = asked) -> bytes:
            assert isinstance(request, BlobRange)
            asked.append(request.length)
            with path.open("rb") as file:
                file.seek(request.offset)
                return file.read(request.length)

        index = run(found.read(layer, DEFAULT_LIMITS), answer)
        total += sum(asked) + _part_of(index, resident)
    return total


def _part_of(index: LayerIndex, resident: Mapping[bytes, int]) -> int:
    total = 0.0
    for number in range(len(index)):
        size = index.size(number)
        read = resident.get(b"/".join(clean(index.entry(number).path)), 0) if size else 0
        if read:
            units = {chunk.unit for chunk in index.chunks(number)}
            total += sum(unit.length for unit in units) * min(1.0, read / size)
    return int(total)
