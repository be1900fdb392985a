"""``python -m bench.pull``: ``als pull`` beside podman's own pull into plain overlay storage, from one local registry.

``als pull`` as users have it, with the daemon running, which does the work; and by itself (``--local``), where Python and all
modules are loaded first.

als is set up for the client that it is measured against, as ``als setup`` does it: storage.conf names the layer store and the
image store of that client's layout, and ``layouts`` is left at "auto", so that images are published in that layout alone.

The image is :mod:`bench.debian`'s, or one like it where that cannot be made. Every pull goes into a new, empty store. The
stores are removed at the end only: a file system that has just removed thousands of files may take several times as long to
make new ones (ext4 without a journal does).
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import IO

from bench.debian import debian_image
from bench.programs import newer, podman_option, podmans
from bench.report import Comparison, Measure, as_installed, compare, machine, table, write_figures
from tests.harness.als import AlsDaemon
from tests.harness.demo import CACHE, temporary_folder
from tests.harness.disk import bytes_on_disk
from tests.harness.memory import descendants
from tests.harness.ocilayout import EPOCH, Layout
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.system import wait_until

_NEWEST = "forky"
_FILES = 7_300
_BYTES = 196_000_000
_WORDS = 4_000


def typical_image(layout: Layout, files: int = _FILES, size: int = _BYTES) -> str:
    """An image like a distribution's: one layer of 196 MB in 7,300 files, about 70 MB when compressed; its tag."""
    tag = f"typical-{files}-{size}"
    if not layout.has(tag):
        layout.add_image(tag, [layout.add_layer(lambda out: _write_typical(out, files, size))])
    return tag


def _write_typical(out: IO[bytes], files: int, size: int) -> None:
    numbers = random.Random(11)
    words = [numbers.randbytes(numbers.randrange(4, 12)) for _ in range(_WORDS)]
    # Most files are small, most bytes are in large ones.
    sizes = [numbers.lognormvariate(8.4, 2.0) for _ in range(files)]
    scale = size / sum(sizes)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for number, share in enumerate(sizes):
            info = tarfile.TarInfo(f"usr/lib/d{number // 10}/f{number}")
            info.size, info.mtime = max(1, int(share * scale)), EPOCH
            tar.addfile(info, _Text(numbers, words))


class _Text:
    """To be read: words in random order, which compress about threefold."""

    def __init__(self, numbers: random.Random, words: list[bytes]) -> None:
        self._numbers = numbers
        self._words = words

    def read(self, size: int = -1, /) -> bytes:
        return b"".join(self._numbers.choices(self._words, k=size // 4 + 1))[:size]


class Pulls:
    """Pulls of one image, each into a store of its own below `folder`."""

    def __init__(self, folder: Path, registry: RegistryServer, reference: str, stack: ExitStack) -> None:
        self._folder = folder
        self._storage = Storage(metacopy=False, insecure=(registry.address,))
        self._reference = reference
        self._stack = stack
        self._numbers: Iterator[int] = count()
        self.disk: dict[str, int] = {}
        """Bytes on disk after the last pull of each way."""

    def by_daemon(self, client: Binaries) -> Measure:
        """Seconds that ``als pull`` takes beside a daemon that is up, and idle."""

        def measure() -> float:
            als = self._store(client)
            als.start()
            wait_until(lambda: idle(als.pid), "a daemon that waits")
            try:
                return self._pull(als)
            finally:
                als.stop()

        return measure

    def local(self, client: Binaries) -> Measure:
        """Seconds that it takes alone."""
        return lambda: self._pull(self._store(client), "--local")

    def _store(self, client: Binaries) -> AlsDaemon:
        """A new store, named in the configuration of its client."""
        base = self._folder / f"a{next(self._numbers)}"
        als = AlsDaemon(base)
        self._stack.callback(als.close)
        image_store = als.image_store if client.version < (5,) else als.composefs_store
        storage = replace(self._storage, layer_stores=(als.layer_store,), image_stores=(image_store,))
        als.environment.update(Podman(base / "client", storage, client).environment)
        return als

    def _pull(self, als: AlsDaemon, *options: str) -> float:
        os.sync()
        begin = time.perf_counter()
        als.cli("pull", "-q", *options, self._reference)
        seconds = time.perf_counter() - begin
        os.sync()
        self.disk["als"] = bytes_on_disk(als.root)
        return seconds

    def theirs(self, binaries: Binaries) -> Measure:
        """Seconds that a podman takes."""

        def measure() -> float:
            podman = self._stack.enter_context(Podman(self._folder / f"p{next(self._numbers)}", self._storage, binaries))
            podman("info")
            os.sync()
            begin = time.perf_counter()
            podman.pull(self._reference)
            seconds = time.perf_counter() - begin
            os.sync()
            self.disk[binaries.podman] = bytes_on_disk(podman.graph_root)
            return seconds

        return measure


def idle(pid: int) -> bool:
    """Whether neither a process nor what it started has used the processor for a fifth of a second."""
    before = _ticks(pid)
    time.sleep(0.2)
    return _ticks(pid) == before


def _ticks(pid: int) -> list[list[str]]:
    """User and system time of a process and its descendants."""
    stats = [Path(f"/proc/{each}/stat").read_text("utf-8", "replace") for each in (pid, *descendants(pid))]
    return [stat.rpartition(")")[2].split()[11:13] for stat in stats]


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of measurements (default %(default)s)")
    parser.add_argument("--image", help="another image than Debian's, as skopeo names it")
    podman_option(parser, "Debian's newest")
    parser.add_argument("--json", type=Path, default=CACHE / "bench" / "pull.json", help="where the numbers go")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this runs podman as root: sudo make bench", file=sys.stderr)
        return 1
    as_installed()
    layout = Layout(CACHE / "bench" / "images")
    image = options.image or debian_image(CACHE / "bench") or layout.name(typical_image(layout))
    comparisons: list[Comparison] = []
    with temporary_folder() as folder, RegistryServer(folder / "registry") as registry, ExitStack() as stack:
        pulls = Pulls(folder, registry, registry.push(image, "image:latest"), stack)
        for binaries in podmans(options.podman, newer(options.podman, _NEWEST)):
            version = ".".join(map(str, Podman(folder / "version", binaries=binaries).version))
            for name, ours in (("daemon", pulls.by_daemon), ("alone", pulls.local)):
                what = f"pull, {name}, podman {version}"
                comparisons.append(compare(what, ours(binaries), pulls.theirs(binaries), options.rounds))
        environment = machine(folder)
        disk = pulls.disk
    print(table(comparisons))
    print("on disk: " + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in disk.items()))
    results = [{**asdict(comparison), "summary": comparison.summary()} for comparison in comparisons]
    write_figures(options.json, [*results, {"name": "bytes on disk", **disk}], environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
