"""``python -m bench.lazyrule``: from which size on a layer is sooner of use before it is here, beside what als expects.

Layers of busybox and ever more files of 10 kB are run from a registry behind a slow link until the first output, always lazily
and never so, by turns; als decides between the two by :mod:`als.lazy.rule`. A start reads next to nothing of the larger ones.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import random
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from als.lazy.rule import Blob, Way, judge
from bench.lazy import programs
from bench.lazyimages import push
from bench.lazyways import als, version_of
from bench.link import ShapedLink
from bench.programs import lazy_options
from bench.report import Comparison, as_installed, compare, machine, write_figures
from tests.harness.demo import CACHE, temporary_folder
from tests.harness.images import runnable_base
from tests.harness.ocilayout import EPOCH, Layout
from tests.harness.podman import Binaries
from tests.harness.registry import RegistryServer

COMMAND = ("/bin/busybox", "echo", "hello")
SIZES = (0, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 16_000_000, 32_000_000)
"""Bytes beside busybox."""
FILE = 10_000
"""As :class:`als.lazy.rule.Costs` takes a file to have."""


def layer(size: int) -> Callable[[IO[bytes]], None]:
    """A root file system and so many bytes in files that do not compress."""

    def write(out: IO[bytes]) -> None:
        numbers = random.Random(size)
        with tarfile.open(fileobj=io.BytesIO(runnable_base())) as base, tarfile.open(fileobj=out, mode="w|") as tar:
            for member in base:
                tar.addfile(member, base.extractfile(member) if member.isreg() else None)
            for number in range(size // FILE):
                info = tarfile.TarInfo(f"usr/files/{number // 100:03}/{number:06}")
                info.size, info.mtime = FILE, EPOCH
                tar.addfile(info, io.BytesIO(numbers.randbytes(FILE)))

    return write


def measure(
    binaries: Binaries, reference: str, link: ShapedLink, registry: RegistryServer, folder: Path, rounds: int
) -> Comparison:
    """First outputs, lazily and whole."""
    places = itertools.count()

    def seconds(lazy: str) -> float:
        place = folder / f"r{next(places)}"
        try:
            return als(binaries, reference, link, registry, lazy, {"lazy": lazy}).cold(place, link, COMMAND).seconds
        finally:
            shutil.rmtree(place)

    return compare(reference, lambda: seconds("always"), lambda: seconds("never"), rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs of each layer (default %(default)s)")
    lazy_options(parser)
    parser.add_argument("--json", type=Path, default=CACHE / "bench" / "lazyrule.json", help="where the numbers go")
    return parser.parse_args()


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = _options()
    if os.geteuid() != 0:
        print("this runs podman as root", file=sys.stderr)
        return 1
    as_installed()
    clients, tools, _ = programs(options)
    if tools.estargz_convert is None:
        return 1
    # Nothing is measured of zstd:chunked here.
    tools = replace(tools, skopeo=None)
    way = Way(options.rtt / 1000, options.rate * 1e6 / 8)
    results: list[dict[str, object]] = []
    with temporary_folder() as folder, RegistryServer(folder / "registry") as registry:
        layout = Layout(folder / "layout")
        print(f"podman {version_of(clients[-1])}: {'layer':>12}{'lazily':>10}{'whole':>10}{'ratio':>8}   als expects")
        for size in SIZES:
            made = layout.add_layer(layer(size), "gzip-6")
            layout.add_image(f"s{size}", [made])
            image = push(registry, layout.name(f"s{size}"), f"rule{size}", tools, folder / "cache")
            with ShapedLink(registry.address, options.rate, options.rtt / 1000) as link:
                reference = image.estargz.replace(registry.address, link.address)
                found = measure(clients[-1], reference, link, registry, folder, options.rounds)
            summary, verdict = found.summary(), judge(Blob(made.size), way)
            times = f"{summary['ours']:>8.2f} s{summary['plain']:>8.2f} s{summary['ratio']:>8.2f}"
            print(f"{made.size / 1e6:>24.1f} MB{times}   {verdict}", flush=True)
            results.append({"bytes": made.size, **summary, "expected_lazy": verdict.lazy, "expected_whole": verdict.whole})
        environment = {**machine(folder), "megabits": str(options.rate), "round_trip_ms": str(options.rtt)}
    write_figures(options.json, results, environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
