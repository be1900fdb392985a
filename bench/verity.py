"""``python -m bench.verity``: what sealing with fs-verity costs, in a virtual machine whose kernel has it.

Measured are ``als pull`` with ``verity = "prefer"`` beside ``"off"``, into a new store each time, and reading every file of an
image of each store, with a warm page cache, through an overlay as containers have it (the sealed one with ``verity=require``).
Both take turns. The machine has no KVM, so that seconds in it are no measure of anything; their ratio is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from bench.pull import typical_image
from bench.report import Comparison, Measure, as_installed, compare, machine, table, write_json
from tests.harness import vmparts
from tests.harness.als import AlsDaemon
from tests.harness.debs import Unavailable
from tests.harness.demo import CACHE, temporary_folder
from tests.harness.ocilayout import Layout
from tests.harness.system import run
from tests.harness.vm import QuickVM

_DISK = "/var/tmp/v"
_DISK_SIZE = "12G"
_DEADLINE = 3000.0
_READ_ALL = 'find "$1" -xdev -type f -print0 | xargs -0 cat >/dev/null'
_SCRIPT = """\
set -e
mkdir {disk} && mount /dev/vda {disk} && cd {root}
export ALS_DEMO_DIR={disk} PATH={path}
exec {python} -m bench.verity --inside {image} --rounds {rounds} --json {json}
"""


def als_with(verity: str, base: Path) -> AlsDaemon:
    """A new store with a setting. No daemon runs: ``als pull`` does all the work."""
    return AlsDaemon(base, settings={"verity": verity, "layouts": ["diffN", "composefs"]})


def pulls(verity: str, folder: Path, image: str, numbers: Iterator[int], stack: ExitStack) -> Measure:
    """Seconds that a pull into a new store takes. All stores are kept until the end."""

    def measure() -> float:
        als = als_with(verity, folder / f"{verity}{next(numbers)}")
        stack.callback(als.close)
        os.sync()
        begin = time.perf_counter()
        als.cli("pull", "-q", image, deadline=_DEADLINE)
        return time.perf_counter() - begin

    return measure


@contextmanager
def container(als: AlsDaemon, point: Path, options: str) -> Iterator[Path]:
    """An image of one layer, as it is mounted for a container."""
    (diff,) = als.root.glob("is4/chains/*/diff")
    point.mkdir()
    lower = f"metacopy=on,redirect_dir=on,lowerdir={diff}:{diff.parent}/diff1"
    run("mount", "-t", "overlay", "-o", f"ro,{options}{lower}", "overlay", point)
    try:
        yield point
    finally:
        run("umount", point)


def reads(point: Path) -> Measure:
    """Seconds that it takes to read all files."""

    def measure() -> float:
        begin = time.perf_counter()
        run("sh", "-c", _READ_ALL, "sh", point)
        return time.perf_counter() - begin

    return measure


def inside(image: str, rounds: int, target: Path) -> None:
    """What runs in the machine."""
    with temporary_folder() as folder, ExitStack() as stack:
        source, _, tag = image.removeprefix("oci:").rpartition(":")
        # What the host gives, it does not give evenly.
        shutil.copytree(source, folder / "images")
        image, numbers = f"oci:{folder / 'images'}:{tag}", count()
        comparisons = [
            compare(
                "als pull",
                pulls("prefer", folder, image, numbers, stack),
                pulls("off", folder, image, numbers, stack),
                rounds,
            )
        ]
        sealed, plain = als_with("require", folder / "sealed"), als_with("off", folder / "plain")
        for als in (sealed, plain):
            stack.callback(als.close)
            als.cli("pull", "-q", image, deadline=_DEADLINE)
        with (
            container(sealed, folder / "m1", "verity=require,") as ours,
            container(plain, folder / "m2", "") as theirs,
        ):
            comparisons.append(compare("read every file, warm", reads(ours), reads(theirs), 3 * rounds))
        write_json(target, comparisons, machine(folder))


def outside(files: int, size: int, rounds: int, target: Path) -> int:
    """Boot a machine, have it measure, and show what it found."""
    try:
        parts = vmparts.fetch(CACHE)
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return 1
    layout = Layout(CACHE / "bench" / "images")
    image = layout.name(typical_image(layout, files, size))
    with temporary_folder() as folder:
        disk = folder / "disk.img"
        run("truncate", "-s", _DISK_SIZE, disk)
        run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "verity", "-E", "lazy_itable_init=1", disk)
        vm = QuickVM(parts, folder / "vm", disks=[disk], memory=4096)
        words = {"disk": _DISK, "root": Path(__file__).parents[1], "path": os.environ["PATH"], "python": sys.executable}
        script = _SCRIPT.format(**words, image=image, rounds=rounds, json=vm.job / "verity.json")
        vm.run(script, deadline=_DEADLINE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(vm.outside / "verity.json", target)
    found = json.loads(target.read_text("utf-8"))
    comparisons = [Comparison(each["name"], tuple(each["ours"]), tuple(each["plain"])) for each in found["results"]]
    print(table(comparisons, "sealed", "not sealed", digits=3))
    print("machine: " + ", ".join(f"{name} {value}" for name, value in found["machine"].items()) + ", QEMU without KVM")
    return 0


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1500, help="in the image (default %(default)s)")
    parser.add_argument("--size", type=int, default=40_000_000, help="of all files, in bytes (default %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="pairs of pulls, and a third of those of reads (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, default=CACHE / "bench" / "verity.json", help="where the numbers go")
    parser.add_argument("--inside", metavar="IMAGE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this mounts images: sudo make bench", file=sys.stderr)
        return 1
    if options.inside:
        inside(options.inside, options.rounds, options.json)
        return 0
    as_installed()
    return outside(options.files, options.size, options.rounds, options.json)


if __name__ == "__main__":
    sys.exit(main())
