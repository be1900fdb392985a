"""``python -m bench.lazy``: ``podman run`` of an image that is not here, up to its first output, over a slow link.

Every run starts from nothing: a new store, a new daemon, a new podman. The ways take turns within each round, in an order that
changes from round to round, and are compared within rounds. The bytes are counted by the link (see :mod:`bench.link`); beside
all stands what no way can be faster than (:mod:`bench.lazyfloor`). ``--large`` adds reading a large file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.lazyfloor import ROUND_TRIPS, Floor, floor_of
from bench.lazyimages import LARGE_BYTES, LARGE_FILE, Formats, Tools, large_image, push, usual_image
from bench.lazyways import Cold, Way, als, overlay, stargz, version_of
from bench.link import ShapedLink
from bench.programs import lazy_options, newer, podmans, upstream_tools
from bench.report import as_installed, machine, write_figures
from tests.harness.demo import CACHE, temporary_folder
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.registry import RegistryServer

COMMAND = ("/usr/bin/python3", "-c", "print('hello')")
_STARGZ = ((5, 0), (5, 5))
"""Podmans that stargz-store is measured with: later ones write down no layer of an additional layer store, and pull again."""
_RANDOM_READS = 60

_CLOCK = f"""
import os, random, time
def clock(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
file = os.open("/{LARGE_FILE}", os.O_RDONLY)
"""
READ_THROUGH = f"""{_CLOCK}
def through():
    while os.read(file, 1 << 20):
        pass
print(clock(through))
"""
"""Seconds for all of the file."""
READ_PAGES = f"""{_CLOCK}
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
places = random.Random(3).sample(range({LARGE_BYTES // 4096}), {_RANDOM_READS})
print(*(clock(lambda: os.pread(file, 4096, place * 4096)) for place in places))
"""
"""Seconds for each of some single pages, anywhere in it."""


def ways(
    clients: Sequence[Binaries], image: Formats, tools: Tools, store: Path | None, link: ShapedLink, registry: RegistryServer
) -> list[Way]:
    """All that can be measured here."""
    found: list[Way] = []
    for binaries in clients:
        found.append(overlay(binaries, image.plain, link))
        for kind, reference in (("plain", image.plain), ("eStargz", image.estargz), ("zstd:chunked", image.zstd_chunked)):
            if not reference:
                continue
            found.append(als(binaries, reference, link, registry, kind))
            if store is not None and kind == "eStargz" and _STARGZ[0] <= binaries.version < _STARGZ[1]:
                found.append(stargz(store, binaries, reference, link, kind))
    return found


def wanted(candidates: Sequence[Way], texts: Sequence[str] | None) -> list[Way]:
    """Those that one of the texts names; no texts: all."""
    return [way for way in candidates if texts is None or any(text in way.name for text in texts)]


def through(link: ShapedLink, registry: RegistryServer, image: Formats) -> Formats:
    """The image's references over the link."""
    return Formats(**{kind: name.replace(registry.address, link.address) for kind, name in asdict(image).items()})


def measure(candidates: Sequence[Way], link: ShapedLink, folder: Path, rounds: int) -> dict[str, list[Cold]]:
    """Each way once a round."""
    found: dict[str, list[Cold]] = {way.name: [] for way in candidates}
    for number in range(rounds):
        shift = number % len(candidates)
        for position, way in enumerate((*candidates[shift:], *candidates[:shift])):
            place = folder / f"r{number}w{position}"
            cold = way.cold(place, link, COMMAND)
            shutil.rmtree(place)
            found[way.name].append(cold)
            print(f"  {way.name}: {cold.seconds:.2f} s, {cold.received / 1e6:.1f} MB", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles; of a single value, itself."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(found: Mapping[str, Sequence[Cold]], clients: Sequence[Binaries]) -> list[dict[str, object]]:
    """Each of ours beside the overlay of the same podman, and beside every stargz-store, round by round."""
    rows: list[dict[str, object]] = []
    for binaries in clients:
        prefix = f"podman {version_of(binaries)} "
        for ours in (name for name in found if name.startswith(f"{prefix}als")):
            for peer in (name for name in found if name == f"{prefix}overlay" or "stargz-store" in name):
                pairs = zip(found[ours], found[peer], strict=True)
                low, middle, high = spread([one.seconds / other.seconds for one, other in pairs])
                rows.append({"ours": ours, "peer": peer, "ratio": middle, "ratio_low": low, "ratio_high": high})
    return rows


def table(found: Mapping[str, Sequence[Cold]], rows: Sequence[Mapping[str, object]], floor: Floor | None, least: float) -> str:
    """Medians with quartiles."""
    lines = [f"{'cold run to first output':<40}{'seconds (quartiles)':>26}{'MB before':>12}"]
    for name, colds in found.items():
        low, middle, high = spread([cold.seconds for cold in colds])
        received = statistics.median(cold.received for cold in colds) / 1e6
        lines.append(f"{name:<40}{f'{middle:.2f} ({low:.2f}-{high:.2f})':>26}{received:>12.1f}")
    if floor is not None:
        lines.append(f"{'floor':<40}{f'{least:.2f}':>16}{floor.needed / 1e6:>22.1f}")
        lines.append(
            f"  of which podman's start {floor.start:.2f} s and {len(ROUND_TRIPS)} round trips; "
            f"{floor.files} files are read, {floor.read / 1e6:.1f} MB of pages"
        )
    for row in rows:
        lines.append(f"{row['ours']} / {row['peer']}: {row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})")
    return "\n".join(lines)


def large_reads(candidates: Sequence[Way], link: ShapedLink, folder: Path, megabits: float) -> list[dict[str, object]]:
    """What reading a large file costs, each way once: at which part of the link's rate, and how long a single page takes.

    Either is read in a container of an image that was not here; what a store fetches in the background meanwhile counts for it.
    """
    rows: list[dict[str, object]] = []
    for position, way in enumerate(candidates):
        outputs = []
        for script in (READ_THROUGH, READ_PAGES):
            place = folder / f"large{position}"
            outputs.append(way.cold(place, link, ("/usr/bin/python3", "-c", script)).output)
            shutil.rmtree(place)
        whole, pages = float(outputs[0]), [float(text) for text in outputs[1].split()]
        part = LARGE_BYTES * 8 / whole / 1e6 / megabits
        low, middle, high = spread(pages)
        row: dict[str, object] = {"way": way.name, "seconds": whole, "of_the_link": part, "page": middle}
        rows.append({**row, "page_low": low, "page_high": high, "pages": pages})
        print(
            f"{way.name}: {LARGE_BYTES / 1e6:.0f} MB in {whole:.1f} s ({part:.0%} of the link); "
            f"4 KiB at random in {middle * 1e3:.1f} ms ({low * 1e3:.1f}-{high * 1e3:.1f})"
        )
    return rows


def programs(options: argparse.Namespace) -> tuple[list[Binaries], Tools, Path | None]:
    """Podmans, converters and stargz-store: those that the options name, else what this machine can have."""
    clients = newer(options.podman, "trixie", "forky")
    skopeo: Path | None = options.skopeo or (clients[-1].skopeo if clients else None)
    tools: Path | None = options.tools or upstream_tools("eStargz, and no stargz-store")
    found = Tools(tools / "estargz-convert" if tools else None, skopeo)
    return podmans(options.podman, clients), found, tools / "stargz-store" if tools else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way (default %(default)s)")
    lazy_options(parser)
    parser.add_argument("--image", help="another image than the usual one, as skopeo names it; it needs /usr/bin/python3")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only ways with this (or another TEXT) in their names")
    parser.add_argument("--large", action="store_true", help="also read a large file")
    parser.add_argument("--json", type=Path, default=CACHE / "bench" / "lazy.json", help="where the numbers go")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = _options()
    if os.geteuid() != 0:
        print("this runs podman as root", file=sys.stderr)
        return 1
    as_installed()
    clients, tools, store = programs(options)
    cache = CACHE / "bench" / "lazy"
    source = options.image or usual_image()
    with temporary_folder() as folder, RegistryServer(folder / "registry") as registry:
        image = push(registry, source, "usual", tools, cache)
        with ShapedLink(registry.address, options.rate, options.rtt / 1000) as link:
            chosen = wanted(ways(clients, through(link, registry, image), tools, store, link, registry), options.only)
            found = measure(chosen, link, folder, options.rounds)
            floor, least = None, 0.0
            if image.estargz and found:
                with Podman(folder / "f", Storage(metacopy=False, insecure=(registry.address,))) as podman:
                    floor = floor_of(podman, image.plain, image.estargz, registry, COMMAND)
                least = floor.seconds(options.rate, options.rtt / 1000)
            rows = ratios(found, clients)
            print(table(found, rows, floor, least))
            large: list[dict[str, object]] = []
            if options.large:
                formats = through(link, registry, push(registry, large_image(source, cache), "large", tools, cache))
                lazy = wanted(ways(clients, formats, tools, store, link, registry), options.only)
                large = large_reads([way for way in lazy if "overlay" not in way.name], link, folder, options.rate)
        environment = {**machine(folder), "megabits": str(options.rate), "round_trip_ms": str(options.rtt)}
    results: list[Mapping[str, object]] = [{"name": name, "runs": [asdict(c) for c in colds]} for name, colds in found.items()]
    results += [{"name": "ratios", "rows": rows}, {"name": "large file", "rows": large}]
    results.append({"name": "floor", "seconds": least, **(asdict(floor) if floor is not None else {})})
    write_figures(options.json, results, environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
