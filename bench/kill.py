"""How long a container waits for a file of a lazy layer when the store's daemon is killed: ``python -m bench.kill``.

A container of podman 5.4 reads files of an image that is not here, past the page cache, all the time. `als serve --keep` is
killed again and again (SIGKILL); measured is the time from each kill to the end of the first read that began after it. No other
store goes on after that. What a container of stargz-store reads after one kill is shown beside it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from als.keeper.restarts import STEADY_SECONDS
from bench.lazyways import StargzStore, version_of
from bench.programs import upstream_tools
from bench.report import as_installed, machine, write_figures
from tests.harness.clients import Unavailable, fetch
from tests.harness.demo import CACHE, temporary_folder
from tests.harness.images import ImageFactory
from tests.harness.kills import daemon_of
from tests.harness.ocilayout import TarBuilder
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.harness.system import wait_until
from tests.lazily.images import layer, runnable, stored
from tests.restart.containers import Containers, Sample
from tests.restart.killing import Report

DEADLINE = 60.0
_LOADED_SECONDS = 4.0
_FILES = {f"d/{number}": 400_000 for number in range(12)}
_SETTINGS = {"lazy": "always", "record_profiles": False, "background": False, "layouts": ["composefs"]}


@dataclass(frozen=True)
class Images:
    """What is in the registry."""

    lazy: Sample
    """As eStargz; containers read it."""
    others: Sequence[str]
    """Small ones, which make the store fuller."""


def make_images(folder: Path, registry: RegistryServer, others: int) -> Images:
    """Push them."""
    factory = ImageFactory(folder)
    chance = random.Random(11)
    files = {name: chance.randbytes(size) for name, size in _FILES.items()}
    blobs = [stored(factory.layout, sample) for sample in (runnable("estargz"), layer("estargz", files))]
    factory.layout.add_image("kill", blobs)
    for number in range(others):
        factory.runnable(f"other{number}", [TarBuilder().file(f"other/{number}", f"{number}".encode() * 100).build()])
    names = ["kill", *(f"other{number}" for number in range(others))]
    lazy, *plain = [registry.push(factory.layout.name(name), f"{name}:1") for name in names]
    return Images(Sample.of(lazy, files), plain)


def killed(folder: Path, registry: RegistryServer, binaries: Binaries, made: Images, kills: int) -> Report:
    """Kill als's daemon under a container."""
    settings: Mapping[str, object] = _SETTINGS
    chance = random.Random(kills)
    with Stack(folder, registry, binaries, mirror=False, settings=settings, keep=True) as stack:
        for reference in made.others:
            stack.als.cli("pull", "-q", reference)
        containers = Containers()
        with containers.steady(stack.podman, "killed", made.lazy) as reader:
            containers.lazy.append(reader)
            containers.all_read(DEADLINE)
            for _ in range(kills):
                # As one that has run for days: the keeper starts the next one at once, and has it ready.
                wait_until(stack.als.serving, "the daemon serves", DEADLINE)
                threading.Event().wait(STEADY_SECONDS + _LOADED_SECONDS + chance.random())
                before, moment = stack.als.serving_pid, containers.now()
                os.kill(daemon_of(stack.als.pid), signal.SIGKILL)
                containers.report.gaps.append(containers.answered_since(moment, DEADLINE) - moment)
                stack.als.replaced(before, DEADLINE)
    return containers.report


def beside(folder: Path, program: Path, registry: RegistryServer, binaries: Binaries, sample: Sample) -> dict[str, str]:
    """What a container of stargz-store reads before and after its store was killed."""
    with StargzStore(program, folder, registry.address) as store:
        storage = Storage((f"{store.point}:ref",), metacopy=False, insecure=(registry.address,))
        with Podman(folder / "p", storage, binaries) as podman:
            podman("run", "-d", "--name", "killed", "-q", sample.reference, "sleep", "1000")
            path = next(iter(sample.sums))
            command = ("exec", "killed", "sha256sum", path)
            found = {"before": _read(podman, command)}
            store.kill()
            found["after the kill"] = _read(podman, command)
    return found


def _read(podman: Podman, command: Sequence[str]) -> str:
    done = podman(*command, status=None)
    return "read" if done.returncode == 0 else done.stderr.decode("utf-8", "replace").strip().splitlines()[-1]


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="(default %(default)s)")
    parser.add_argument("--images", type=int, default=20, help="further images in the store (default %(default)s)")
    parser.add_argument("--json", type=Path, default=CACHE / "bench" / "kill.json", help="where the numbers go")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("this runs podman as root", file=sys.stderr)
        return 1
    try:
        binaries = fetch("trixie", CACHE).binaries
    except Unavailable as reason:
        print(f"not measured: {reason}", file=sys.stderr)
        return 0
    as_installed()
    tools = upstream_tools("stargz-store")
    with temporary_folder() as folder, RegistryServer(folder / "registry") as registry:
        made = make_images(folder / "oci", registry, options.images)
        report = killed(folder / "a", registry, binaries, made, options.kills)
        peer = beside(folder / "s", tools / "stargz-store", registry, binaries, made.lazy) if tools is not None else {}
        environment = machine(folder) | {"podman": version_of(binaries), "images": str(options.images + 1)}
    print(f"als: {report}")
    print("".join(f"stargz-store, {when}: {what}\n" for when, what in peer.items()), end="")
    figures: dict[str, object] = {"name": "als", "seconds": report.gaps, "reads": report.reads, "wrong": report.wrong}
    figures |= {"median": statistics.median(report.gaps), "worst": max(report.gaps)}
    results: list[Mapping[str, object]] = [figures, {"name": "stargz-store", "reads": peer}]
    write_figures(options.json, results, environment)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
