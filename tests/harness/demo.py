"""``make demo``: what als does, with real podman, and what it costs and saves beside plain overlay.

Two images that share most of their files but no layer are pulled and run twice: once with podman's plain overlay storage, once
through als. Everything lives in one temporary folder; it is unmounted, ended and removed whatever happens, on Ctrl-C as well.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.harness.demo_images import DemoImages, demo_images
from tests.harness.disk import bytes_on_disk, drop_from_cache, resident_bytes
from tests.harness.podman import Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.harness.system import unmount_below

CACHE = Path(__file__).parents[2] / ".cache"
PROGRAM = "import json, ssl, sqlite3, sys; print(sys.version.split()[0])"
COMMAND = ("/usr/bin/python3", "-c", PROGRAM)
SHARED_FILE = "/usr/bin/perl"
WARM_RUNS = 5


@dataclass(frozen=True)
class Costs:
    """Of one image with one kind of storage: seconds, and bytes that the disk had more afterwards."""

    pull: float
    first_run: float
    warm_run: float
    disk: int


def say(text: str = "") -> None:
    print(text, flush=True)


def timed(work: Callable[[], object]) -> float:
    """How long it takes, in seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(podman: Podman, pull_it: Callable[[str], object], reference: str, *folders: Path) -> Costs:
    """Pull an image with `pull_it` and run it several times."""
    before = bytes_on_disk(*folders)
    pull = timed(lambda: pull_it(reference))
    first = timed(lambda: podman.run(reference, *COMMAND))
    warm = sorted(timed(lambda: podman.run(reference, *COMMAND)) for _ in range(WARM_RUNS))[WARM_RUNS // 2]
    os.sync()
    return Costs(pull, first, warm, bytes_on_disk(*folders) - before)


def table(rows: list[tuple[str, Costs, Costs]]) -> list[str]:
    """Per image and measure: als, plain overlay, and the ratio."""
    lines = [f"{'':28}{'als':>12}{'plain overlay':>16}{'ratio':>9}"]
    for name, ours, plain in rows:
        seconds = (
            ("podman pull", ours.pull, plain.pull),
            ("first podman run", ours.first_run, plain.first_run),
            (f"warm podman run (median of {WARM_RUNS})", ours.warm_run, plain.warm_run),
        )
        lines.append(f"{name} image")
        lines += [f"  {what:<34}{a:>5.2f} s{b:>14.2f} s{a / b:>9.2f}" for what, a, b in seconds]
        lines.append(
            f"  {'more on disk':<30}{ours.disk / 1e6:>7.1f} MB{plain.disk / 1e6:>13.1f} MB{ours.disk / plain.disk:>9.2f}"
        )
    ours_sum, plain_sum = sum(row[1].disk for row in rows), sum(row[2].disk for row in rows)
    lines.append(f"{'both images on disk':<32}{ours_sum / 1e6:>7.1f} MB{plain_sum / 1e6:>13.1f} MB{ours_sum / plain_sum:>9.2f}")
    return lines


def prove_sharing(stack: Stack, references: tuple[str, ...]) -> list[str]:
    """That both images' containers read one inode: the object, its hardlinks, and its pages in the page cache."""
    rows = [next(row for row in stack.als.files(reference) if row["path"] == SHARED_FILE) for reference in references]
    stored = stack.als.object_path(rows[0]["sha256"])
    status = stored.stat()
    links = stack.als.links(stored)
    lines = [f"{SHARED_FILE}, {status.st_size} bytes, as `als files --json` has it:"]
    for name, row in zip(("first", "second"), rows, strict=True):
        lines.append(f"  in the {name:<6} image: sha256 {row['sha256'][:20]}..., modified {_day(row['mtime'][0])}")
    lines.append(f"one object holds its bytes: ROOT/{stored.relative_to(stack.als.root).parent}/{stored.name[:16]}...")
    lines.append(
        f"  device {status.st_dev}, inode {status.st_ino}, {status.st_nlink} links; those in layers, where overlay opens it:"
    )
    for path in links:
        lines.append(
            f"  device {path.stat().st_dev}, inode {path.stat().st_ino}  ROOT/layers/{_layer_of(stack.als.root, path)}"
        )
    drop_from_cache(stored)
    lines.append(f"that inode's bytes in the page cache, once dropped{resident_bytes(stored):>30}")
    for name, reference in zip(("first", "second"), references, strict=True):
        stack.podman.run(reference, "/usr/bin/md5sum", SHARED_FILE)
        lines.append(f"  after a container of the {name:<6} image has read {SHARED_FILE}{resident_bytes(stored):>15}")
    if rows[0]["sha256"] != rows[1]["sha256"] or len(links) < 2 or resident_bytes(stored) < rows[0]["size"]:
        raise RuntimeError("the images do not share the file as they should:\n" + "\n".join(lines))
    return lines


def _layer_of(root: Path, path: Path) -> str:
    parts = path.relative_to(root).parts
    return f"{parts[1][:16]}.../{parts[2]}/..."


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A short path on a disk; whatever is mounted below it at the end is unmounted before it is removed."""
    folder = Path(tempfile.mkdtemp(prefix="als-", dir=os.environ.get("ALS_DEMO_DIR", "/var/tmp")))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        unmount_below(folder)
        shutil.rmtree(folder)


def interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    """End in an orderly way, through every ``finally``."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def compare(folder: Path, images: DemoImages) -> None:
    """The whole demo below `folder`."""
    with RegistryServer(folder / "registry") as registry:
        references = tuple(registry.push(images.layout.name(tag), f"{tag}:latest") for tag in images.tags)
        say(f"registry on {registry.address} has {' and '.join(references)}")
        say("\n1. podman with plain overlay storage")
        with Podman(folder / "p", Storage(metacopy=False, insecure=(registry.address,))) as plain:
            plain_costs = [measure(plain, plain.pull, reference, plain.graph_root) for reference in references]
        shutil.rmtree(folder / "p")
        say("2. podman with `als serve` as additional layer store")
        with Stack(folder / "s", registry) as stack:
            places = (stack.als.root, stack.podman.graph_root)
            our_costs = [measure(stack.podman, stack.pull, reference, *places) for reference in references]
            proof = prove_sharing(stack, references)
            say("3. the daemon is stopped; the images still run")
            stack.als.stop()
            for reference in references:
                say(f"   {reference}: Python {stack.podman.run(reference, *COMMAND).strip()}")
    say("\nBoth containers read the same inode:\n")
    say("\n".join(f"  {line}" for line in proof))
    say()
    say("\n".join(f"  {line}" for line in table(list(zip(images.tags, our_costs, plain_costs, strict=True)))))


def main() -> int:
    """Run the demo; returns the exit status."""
    if os.geteuid() != 0:
        print("the demo mounts file systems and runs podman as root: sudo make demo", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        say("making two images of some 200 MB from Debian packages (kept in .cache for the next time)")
        images = demo_images(CACHE)
        with temporary_folder() as folder:
            compare(folder, images)
    except KeyboardInterrupt as error:
        print(f"\ninterrupted ({error or 'SIGINT'}); everything was cleaned up", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
