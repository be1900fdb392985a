"""``python -m bench.lazyfiles``: lazy layers of a thousand to a million files, none of which is here when the layer is shown.

What is measured is the lookup, as podman makes it: table of contents, metadata image, publication. Time and memory should grow
with the number of files.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench.files import FOLDER, content, counts, mount_seconds, reference
from bench.report import as_installed, machine, write_figures
from tests.formats.tocbuilder import Source, estargz, file, folder
from tests.harness.blobproxy import BlobProxy
from tests.harness.demo import CACHE, temporary_folder
from tests.harness.memory import PeakMemory, proportional_bytes
from tests.harness.registry import RegistryServer
from tests.lazily.site import QUIET, Shop, Site

_DEADLINE = 900.0
"""For a lookup; the daemon's default is made for layers of tens of thousands of files."""


def sources(count: int) -> list[Source]:
    """So many small files."""
    found: list[Source] = []
    for number in range(count):
        if number % FOLDER == 0:
            found.append(folder(f"d{number // FOLDER}"))
        found.append(file(f"d{number // FOLDER}/f{number}", content(number), mode=0o644))
    return found


def measure(base: Path, shop: Shop, proxy: BlobProxy, count: int) -> dict[str, float]:
    """One row of the table."""
    image = shop.image(f"files-{count}", [estargz(sources(count))])
    settings: Mapping[str, object] = {**QUIET, "lookup_deadline": _DEADLINE}
    with Site(base / str(count), proxy, settings) as site:
        idle = proportional_bytes(site.als.pid)
        with PeakMemory() as peak:
            begin = time.perf_counter()
            (diff,) = site.look_up(image)
            seconds = time.perf_counter() - begin
        mounting = mount_seconds(diff.with_name("layer.erofs"), base / f"mount-{count}")
        rest = proportional_bytes(site.als.pid) - idle
    return {
        "files": count,
        "seconds": seconds,
        "per_file": seconds / count,
        "peak_bytes": peak.bytes,
        "daemon_bytes": rest,
        "mount_seconds": mounting,
    }


def table(rows: list[dict[str, float]]) -> str:
    """Times, the time for each file beside that of ten thousand files, and memory."""
    base = reference(rows)
    lines = [f"{'files':>9}{'lookup':>10}{'per file':>12}{'ratio':>8}{'peak':>10}{'daemon':>10}{'mount':>10}"]
    for row in rows:
        lines.append(
            f"{row['files']:>9}{row['seconds']:>8.2f} s{row['per_file'] * 1e6:>9.0f} us{row['per_file'] / base:>8.2f}"
            f"{row['peak_bytes'] / 1e6:>7.0f} MB{row['daemon_bytes'] / 1e6:>7.0f} MB{row['mount_seconds'] * 1e3:>7.1f} ms"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000, help="files in the largest layer (default %(default)s)")
    parser.add_argument("--json", type=Path, default=CACHE / "bench" / "lazyfiles.json", help="where the numbers go")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this mounts images: sudo make bench", file=sys.stderr)
        return 1
    as_installed()
    rows = []
    with temporary_folder() as base, RegistryServer(base / "registry") as registry, BlobProxy(registry.address) as proxy:
        shop = Shop(base / "images", registry, proxy)
        for count in counts(options.most):
            rows.append(measure(base, shop, proxy, count))
            print(table(rows[-1:]), file=sys.stderr, flush=True)
        print(table(rows))
        write_figures(options.json, rows, machine(base))
    return 0


if __name__ == "__main__":
    sys.exit(main())
