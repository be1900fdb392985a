"""``python -m bench.files``: layers of a thousand to a million files; time and memory should grow with their number.

Pulled from an OCI layout, so that nothing but als is measured. Each file is an object of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
import time
from pathlib import Path
from typing import IO

from als.mount.erofs import mount_erofs
from als.mount.unmounting import unmount
from bench.memory import pulled
from bench.report import as_installed, machine, write_figures
from tests.harness.als import AlsDaemon
from tests.harness.demo import CACHE, temporary_folder
from tests.harness.ocilayout import EPOCH, Layout

FOLDER = 1000
"""Files in each directory."""
_CONTENT = 200
"""Bytes of each file, at least: more than what would live in the metadata image."""
_REFERENCE = 10_000


def content(number: int) -> bytes:
    """Of a file; no two are the same."""
    return b"%d\n" % number + b"x" * _CONTENT


def many_files(layout: Layout, count: int) -> None:
    """An image of one layer with so many small files."""

    def write(out: IO[bytes]) -> None:
        for number in range(count):
            data = content(number)
            info = tarfile.TarInfo(f"d{number // FOLDER}/f{number}")
            info.size, info.mtime = len(data), EPOCH
            out.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))
        out.write(bytes(2 * tarfile.BLOCKSIZE))

    layout.add_image(f"files-{count}", [layout.add_layer(write)])


def mount_seconds(image: Path, point: Path) -> float:
    """How long the kernel takes to mount a metadata image, and to list its top directory."""
    point.mkdir()
    begin = time.perf_counter()
    mount_erofs(image, point)
    os.listdir(point)
    seconds = time.perf_counter() - begin
    unmount(point)
    return seconds


def measure(folder: Path, layout: Layout, count: int) -> dict[str, float]:
    """One row of the table."""
    als = AlsDaemon(folder / str(count))
    try:
        seconds, peak = pulled(als, layout.name(f"files-{count}"))
        (image,) = als.root.glob("layers/*/layer.erofs")
        mounting = mount_seconds(image, folder / f"mount-{count}")
    finally:
        als.close()
    return {"files": count, "seconds": seconds, "per_file": seconds / count, "peak_bytes": peak, "mount_seconds": mounting}


def reference(rows: list[dict[str, float]]) -> float:
    """Seconds for each file of ten thousand, beside which the others are put."""
    return next((row["per_file"] for row in rows if row["files"] == _REFERENCE), rows[0]["per_file"])


def counts(most: int) -> list[int]:
    """How many files the layers have."""
    return [count for count in (1_000, 10_000, 100_000, 1_000_000) if count <= most]


def table(rows: list[dict[str, float]]) -> str:
    """Times, the time for each file beside that of ten thousand files, and memory."""
    base = reference(rows)
    lines = [f"{'files':>9}{'pull':>10}{'per file':>12}{'ratio':>8}{'memory':>10}{'mount':>10}"]
    for row in rows:
        lines.append(
            f"{row['files']:>9}{row['seconds']:>8.2f} s{row['per_file'] * 1e6:>9.0f} us{row['per_file'] / base:>8.2f}"
            f"{row['peak_bytes'] / 1e6:>7.0f} MB{row['mount_seconds'] * 1e3:>7.1f} ms"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000, help="files in the largest layer (default %(default)s)")
    parser.add_argument("--json", type=Path, default=CACHE / "bench" / "files.json", help="where the numbers go")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this mounts images: sudo make bench", file=sys.stderr)
        return 1
    as_installed()
    layout = Layout(CACHE / "bench" / "images")
    rows = []
    with temporary_folder() as folder:
        for count in counts(options.most):
            if not layout.has(f"files-{count}"):
                many_files(layout, count)
            rows.append(measure(folder, layout, count))
        # Before the files are removed, which takes longer than everything else.
        print(table(rows))
        write_figures(options.json, rows, machine(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
