"""gc in a loop beside pulls and runs of images that overlap: ``python -m tests.harness.soak SECONDS [--seed N] [--kills]``.

Each worker owns some of the images' names, so that it knows what must be there; their layers come from one small pool, so that
what one worker removes is mostly what another is just pulling. Whatever a worker does must succeed, and every container
must read what its image says. In the end everything is removed, and gc has to leave nothing.

With kills, the daemon is killed at random moments all the time. All of that still holds, but for an `als pull` that the daemon
was at work on: it says so, and is to succeed when it is tried again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from als.model.digest import Digest
from tests.harness.images import ImageFactory
from tests.harness.kills import Killer
from tests.harness.lease import let_an_hour_pass
from tests.harness.ocilayout import TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack

POOL = 10
"""Layers to choose from."""
IMAGES = 12
_SHARED_FILES = 5
_SERVES_AGAIN_SECONDS = 60.0
_TRIES = 20
_OUTPUTS = 3
_UNKNOWN = "no such image in the store"
_ENDED = "the daemon ended"
"""Part of what `als pull` says when the daemon that it has asked is killed."""


@dataclass
class Tally:
    """What was done, by kind, and what went wrong."""

    done: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sample:
    """An image, and what a container of it says of its files."""

    reference: str
    own: str
    """The DiffID of its highest layer, which no other image has."""
    sums: str


def make_samples(stack: Stack, images: ImageFactory, seed: int) -> list[Sample]:
    """Push images of random layers of the pool, in random order; some are tall enough for a flat layer."""
    chance = random.Random(seed)
    pool = []
    for number in range(POOL):
        tar = TarBuilder().directory("pool").directory(f"pool/{number}")
        for name in range(_SHARED_FILES):
            # Some contents are the same in every layer.
            content = f"{name if name % 2 else (number, name)} ".encode() * 400
            tar.file(f"pool/{number}/{name}", content)
        pool.append((number, tar.build()))
    samples = []
    for number in range(IMAGES):
        chosen = chance.sample(pool, chance.choice((1, 2, 3, 8)))
        tag = f"soak{number}"
        own = TarBuilder().directory("own").file("own/file", tag.encode() * 1000).build()
        images.runnable(tag, [*(tar for _, tar in chosen), own])
        reference = stack.registry.push(images.layout.name(tag), f"{tag}:latest")
        samples.append(Sample(reference, str(Digest.of(own)), str(len(chosen) * _SHARED_FILES)))
    return samples


class Soak:
    """Workers on one stack.

    :param kills: one of them kills the daemon, which has to be kept.
    """

    def __init__(self, stack: Stack, samples: Sequence[Sample], seed: int, *, kills: bool = False) -> None:
        self._stack = stack
        self._samples = samples
        self._seed = seed
        self._kills = kills
        self._tally = Tally()
        self._end = 0.0

    def run(self, seconds: float) -> Tally:
        """Work for some seconds, clean up, and tell. The store must be empty before, and is so afterwards."""
        self._end = time.monotonic() + seconds
        self._stack.podman("info")  # Makes podman's mount namespace, once and not in each thread.
        third = len(self._samples) // 3
        threads = [
            threading.Thread(target=self._guarded, args=(self._podman_worker, self._samples[:third], 1), name="podman 1"),
            threading.Thread(
                target=self._guarded, args=(self._podman_worker, self._samples[third : 2 * third], 2), name="podman 2"
            ),
            threading.Thread(target=self._guarded, args=(self._als_worker, self._samples[2 * third :], 3), name="als"),
            threading.Thread(target=self._guarded, args=(self._gc_worker, (), 4), name="gc"),
        ]
        if self._kills:
            threads.append(threading.Thread(target=self._guarded, args=(self._killing_worker, (), 6), name="kills"))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._guarded(self._clean_up, self._samples, 5)
        return self._tally

    def _guarded(self, work: Callable[[Sequence[Sample], random.Random], None], samples: Sequence[Sample], number: int) -> None:
        try:
            work(samples, random.Random(f"{self._seed} {number}"))
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            self._tally.errors.append(f"{threading.current_thread().name}: {error}")
            self._end = 0.0

    def _working(self) -> bool:
        return time.monotonic() < self._end

    def _podman_worker(self, samples: Sequence[Sample], chance: random.Random) -> None:
        podman = self._stack.podman
        while self._working():
            sample = chance.choice(samples)
            listed = self._is_listed(sample)
            podman.pull(sample.reference)
            forgotten = chance.random() < 0.5
            if forgotten:
                # From here on podman alone keeps the image's layers.
                self._rm(sample, listed)
            for _ in range(chance.randint(1, 3)):
                self._read_all(sample)
            if chance.random() < 0.3:
                self._build_on(sample, chance)
            podman("rmi", sample.reference)
            if not forgotten and chance.random() < 0.8:
                self._rm(sample, listed)
            self._tally.done["podman"] += 1

    def _is_listed(self, sample: Sample) -> bool:
        """Whether a client that pulls the image now may find all layers listed that gc has not removed yet."""
        entries = json.loads((self._stack.als.image_store / "overlay-layers" / "layers.json").read_bytes())
        return any(entry["diff-digest"] == sample.own for entry in entries)

    def _rm(self, sample: Sample, listed: bool) -> None:
        """``als rm`` of what podman has pulled; if that asked als for nothing, als knows no such image."""
        done = self._stack.als.cli("rm", sample.reference, status=None)
        said = done.stderr.decode("utf-8", "replace")
        assert not done.returncode or (listed and _UNKNOWN in said), f"als rm {sample.reference}: {said}"
        self._tally.done["als rm, unknown"] += bool(done.returncode)

    def _read_all(self, sample: Sample) -> None:
        seen = ""
        for _ in range(_OUTPUTS):
            # Nothing at all is what no file could make of this: podman lost it (podman's issue 7195).
            seen = seen.strip() or self._stack.podman.run(
                sample.reference, "sh", "-c", "find /pool -type f | xargs md5sum | wc -l"
            )
        assert seen.strip() == sample.sums, f"{sample.reference}: {seen.strip()} files instead of {sample.sums}"

    def _build_on(self, sample: Sample, chance: random.Random) -> None:
        """A container goes on, and an image is built, when the image below has gone from als's list."""
        podman = self._stack.podman
        name = f"b{chance.randrange(1 << 30)}"
        podman("run", "--name", name, "--pull=never", sample.reference, "sh", "-c", "echo new >/new")
        podman("commit", "-q", name, f"localhost/{name}:1")
        podman("rm", name)
        seen = podman.run(f"localhost/{name}:1", "sh", "-c", "cat /new; find /pool -type f | xargs md5sum | wc -l")
        assert seen.split() == ["new", sample.sums], f"{name}: {seen}"
        podman("rmi", f"localhost/{name}:1")
        self._tally.done["built"] += 1

    def _als_worker(self, samples: Sequence[Sample], chance: random.Random) -> None:
        als = self._stack.als
        held: set[str] = set()
        while self._working():
            sample = chance.choice(samples)
            if sample.reference in held or len(held) > 1:
                gone = chance.choice(sorted(held))
                als.cli("rm", gone)
                held.remove(gone)
            else:
                self._pull(sample)
                held.add(sample.reference)
            for reference in held:
                files = [entry for entry in als.files(reference) if str(entry["path"]).startswith("/pool/")]
                assert files, reference
            self._tally.done["als"] += 1

    def _pull(self, sample: Sample) -> None:
        """``als pull``, tried again when the daemon was killed meanwhile, and then only."""
        for _ in range(_TRIES if self._kills else 1):
            done = self._stack.als.cli("pull", "-q", sample.reference, status=None)
            said = done.stderr.decode("utf-8", "replace")
            if _ENDED not in said:
                break
            self._tally.done["als pull, tried again"] += 1
        assert done.returncode == 0, f"als pull {sample.reference}: {said}"

    def _killing_worker(self, samples: Sequence[Sample], chance: random.Random) -> None:
        killer = Killer(self._stack.als, chance, _SERVES_AGAIN_SECONDS)
        while self._working():
            killer.wait()
            killer.kill()
            killer.wait_replaced()
            self._tally.done["kills"] += 1

    def _gc_worker(self, samples: Sequence[Sample], chance: random.Random) -> None:
        als = self._stack.als
        while self._working():
            found = als.json("gc")
            assert not found["unknown"], found["unknown"]
            self._tally.done["gc"] += 1
            self._tally.done["layers removed"] += len(found["layers"])

    def _clean_up(self, samples: Sequence[Sample], chance: random.Random) -> None:
        podman, als = self._stack.podman, self._stack.als
        als.cli("fsck", "--deep")
        podman("rm", "-fa", "-t", "0")
        podman("rmi", "-fa")
        for image in als.json("images"):
            als.cli("rm", image["reference"])
        if self._kills:
            # A request for a layer that was counted when the daemon was killed comes to the next one again, and counts twice.
            let_an_hour_pass(als.root)
        als.cli("gc")
        als.cli("fsck", "--deep")
        left = [path for name in ("layers", "images", "refs", "tmp") for path in (als.root / name).iterdir()]
        left += (als.root / "objects").glob("*/*")
        left += [path for path in (als.image_store / "overlay").iterdir() if path.name != "l"]
        assert not left, f"dead, and still there: {left}"
        assert json.loads((als.image_store / "overlay-layers" / "layers.json").read_bytes()) == []


def main() -> int:
    """Run it on a stack of its own; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--kills", action="store_true", help="kill the daemon at random moments")
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    with tempfile.TemporaryDirectory(prefix="als-", dir="/var/tmp") as name:
        base = Path(name)
        with RegistryServer(base / "registry") as registry, Stack(base, registry, keep=options.kills) as stack:
            samples = make_samples(stack, ImageFactory(base / "oci"), options.seed)
            tally = Soak(stack, samples, options.seed, kills=options.kills).run(options.seconds)
    sys.stdout.write("".join(f"{count:6} {what}\n" for what, count in sorted(tally.done.items())))
    sys.stdout.write("".join(f"ERROR {error}\n" for error in tally.errors))
    return 1 if tally.errors else 0


if __name__ == "__main__":
    sys.exit(main())
