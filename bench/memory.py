"""``python -m bench.memory``: the most memory that all processes of a pull take together, for one layer of 2 GB."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tarfile
import time
from pathlib import Path
from typing import IO

from bench.report import as_installed, machine, write_figures
from tests.harness.als import AlsDaemon
from tests.harness.demo import CACHE, temporary_folder
from tests.harness.memory import PeakMemory
from tests.harness.ocilayout import Layout

_BLOCK = 1 << 20
_FILE = 16 << 20


def big_layer(layout: Layout, size: int) -> None:
    """An image of one layer with files of 16 MiB, `size` bytes in all, half of them random."""

    def write(out: IO[bytes]) -> None:
        numbers = random.Random(7)
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for number in range(size // _FILE):
                info = tarfile.TarInfo(f"data/{number}")
                info.size = _FILE
                tar.addfile(info, _Mixed(numbers, _FILE))

    layout.add_image(f"big-{size}", [layout.add_layer(write)])


class _Mixed:
    """To be read: random bytes and zeros in turn, half a MiB each."""

    def __init__(self, numbers: random.Random, size: int) -> None:
        self._numbers = numbers
        self._left = size
        self._data = b""

    def read(self, size: int = -1, /) -> bytes:
        size = min(size, self._left)
        while len(self._data) < size:
            self._data += self._numbers.randbytes(_BLOCK // 2) + bytes(_BLOCK // 2)
        self._left -= size
        piece, self._data = self._data[:size], self._data[size:]
        return piece


def pulled(als: AlsDaemon, image: str) -> tuple[float, int]:
    """Seconds that ``als pull`` takes, and the most memory of all its processes."""
    os.sync()
    with PeakMemory() as peak:
        begin = time.perf_counter()
        als.cli("pull", "-q", image, deadline=3600)
        seconds = time.perf_counter() - begin
    return seconds, peak.bytes


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2000, help="of the layer, in MB (default %(default)s)")
    parser.add_argument("--json", type=Path, default=CACHE / "bench" / "memory.json", help="where the numbers go")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this mounts images: sudo make bench", file=sys.stderr)
        return 1
    as_installed()
    size = options.size * 1_000_000
    layout = Layout(CACHE / "bench" / "images")
    if not layout.has(f"big-{size}"):
        big_layer(layout, size)
    with temporary_folder() as folder:
        als = AlsDaemon(folder)
        try:
            seconds, peak = pulled(als, layout.name(f"big-{size}"))
        finally:
            als.close()
        environment = machine(folder)
    print(f"a layer of {options.size} MB: {seconds:.1f} s, at most {peak / 1e6:.0f} MB of memory in all processes together")
    write_figures(options.json, [{"bytes": size, "seconds": seconds, "peak_bytes": peak}], environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
