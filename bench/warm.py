"""``make bench``: a warm ``podman run``, and reading every file of an image, beside plain overlay.

The images are those of the demo. Both podmans run at the same time on the same disk, and the page cache is warm: what is
measured is what als puts into the way of a container that has been pulled, which should be nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from bench.report import Measure, as_installed, compare, machine, table, write_json
from tests.harness.demo import CACHE, temporary_folder
from tests.harness.demo_images import demo_images
from tests.harness.podman import Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack

READ_ALL = 'b=$EPOCHREALTIME; find / -xdev -type f -print0 | xargs -0 cat >/dev/null; echo "$b $EPOCHREALTIME"'
LIST_ALL = 'b=$EPOCHREALTIME; find / -xdev -printf "%s" >/dev/null; echo "$b $EPOCHREALTIME"'


def whole_run(podman: Podman, reference: str) -> Measure:
    """Seconds from ``podman run`` to its end, of a program that does nothing."""

    def measure() -> float:
        begin = time.perf_counter()
        podman.run(reference, "/usr/bin/true")
        return time.perf_counter() - begin

    return measure


def inside(podman: Podman, reference: str, script: str) -> Measure:
    """Seconds that the script says it took inside a new container."""

    def measure() -> float:
        begin, end = podman.run(reference, "/usr/bin/bash", "-c", script).split()
        return float(end) - float(begin)

    return measure


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="pairs of measurements (default %(default)s)")
    parser.add_argument("--json", type=Path, default=CACHE / "bench" / "warm.json", help="where the numbers go")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this runs podman as root: sudo make bench", file=sys.stderr)
        return 1
    as_installed()
    images = demo_images(CACHE)
    with (
        temporary_folder() as folder,
        RegistryServer(folder / "registry") as registry,
        Podman(folder / "p", Storage(metacopy=False, insecure=(registry.address,))) as plain,
        Stack(folder / "s", registry) as stack,
    ):
        reference = registry.push(images.layout.name("first"), "first:latest")
        stack.pull(reference)
        plain.pull(reference)
        ours = stack.podman
        comparisons = [
            compare("podman run true", whole_run(ours, reference), whole_run(plain, reference), options.rounds),
            compare("list every file", inside(ours, reference, LIST_ALL), inside(plain, reference, LIST_ALL), options.rounds),
            compare("read every file", inside(ours, reference, READ_ALL), inside(plain, reference, READ_ALL), options.rounds),
        ]
        environment = machine(folder)
    print(table(comparisons))
    print("machine: " + ", ".join(f"{name} {value}" for name, value in environment.items()))
    write_json(options.json, comparisons, environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
