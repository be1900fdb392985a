"""A daemon whose system calls fail while it shows a lazy layer, fills it and seals it: a clear error, a sound store, space
given back, and the next pull works, without a restart."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.harness import faults
from tests.harness.blobproxy import BlobProxy
from tests.harness.disk import bytes_on_disk
from tests.harness.registry import RegistryServer
from tests.harness.system import Completed, wait_until
from tests.lazily.images import layer
from tests.lazily.site import QUIET, Lazy, Shop, Site
from tests.lazy.site import noise
from tests.life.stores import contents
from tests.life.test_life_faults import ALL, CHANGES, REFUSALS, TAKES_SPACE, sample

SMALL = {f"d/small{number}": noise(3000 + number, number) for number in range(5)}
LARGE = {f"d/large{number}": noise(400_000 + number, 50 + number) for number in range(3)}
FILES = {**SMALL, **LARGE}
PART = 1000
"""Bytes that are read of a file, so that the larger ones are here in part."""
TRIES_SECONDS = "4"
AGAIN_SECONDS = 90.0
"""Until a daemon must have tried once more to show a layer as complete; it does so each half minute."""
SLACK = 64 << 10
"""Directories keep blocks that names once needed."""


class Tried:
    """A store in which a lazy image fails to come again and again, and another one stays."""

    def __init__(self, site: Site, kept: Lazy, image: Lazy) -> None:
        self.site, self.als = site, site.als
        self._kept, self._image = kept, image
        self._bring(kept)
        self.als.cli("gc")
        self._before = self._contents()
        self._size = bytes_on_disk(self.als.root)

    def attempt(self) -> str:
        """Look up, read, and wait for all of it; what was said if not all of it came, else ""."""
        begin = len(self.als.log_text())
        try:
            self.site.look_up(self._image)
        except FileNotFoundError:
            # Nothing is shown; the client fetches all of it by itself.
            return self._log_since(begin)
        self._read_some()
        done = self.als.cli("wait", "-q", "--timeout", TRIES_SECONDS, self._image.reference, status=None)
        said, log = done.stderr.decode(), self._log_since(begin)
        assert not done.returncode or said.startswith("als: "), said
        return f"{said}{log}" if done.returncode else ""

    def _log_since(self, begin: int) -> str:
        log = self.als.log_text()[begin:]
        assert "Traceback" not in log, log
        return log

    def _read_some(self) -> None:
        """A container gets the right bytes, or an error."""
        with self.site.mounts():
            root = self.site.mount_by_chain(self._image)
            for name in ("d/small1", "d/large1"):
                try:
                    with (root / name).open("rb", buffering=0) as file:
                        assert file.read(PART) == FILES[name][:PART]
                except OSError as error:
                    assert error.errno == errno.EIO

    def check(self) -> None:
        """Now that nothing fails any more."""
        # What is complete and could not be listed as such, the daemon lists when it tries again.
        wait_until(lambda: not self._found(), "a sound store", AGAIN_SECONDS)
        self._bring(self._image)
        with self.site.mounts():
            root = self.site.mount_by_chain(self._image)
            assert {name: (root / name).read_bytes() for name in FILES} == FILES
        self._is_sound("--deep")
        self.take_back()

    def take_back(self) -> None:
        self.als.cli("rm", self._image.reference)
        self.als.cli("gc")
        assert self._contents() == self._before
        assert bytes_on_disk(self.als.root) <= self._size + SLACK

    def points(self, syscalls: Sequence[str] = TAKES_SPACE) -> list[faults.Point]:
        """All calls of the daemon that concern its store, from a pull that succeeds and is taken back."""
        with faults.watched(self.als.serving_pid, faults.Below(self.als.root), syscalls) as found:
            self.site.look_up(self._image)
            self._read_some()
            self._bring(self._image)
        self.take_back()
        return found

    def failing(self, point: faults.Point, error: str, last: str = "") -> AbstractContextManager[None]:
        return faults.failing(self.als.serving_pid, point, error, last)

    def killed(self, point: faults.Point) -> bool:
        """Whether the daemon was, at a call of a pull that it did; the next one has started."""
        process = self.als.serving_pid
        with faults.dying(process, point):
            with contextlib.suppress(OSError):
                self.site.look_up(self._image)
                self._read_some()
            self.als.cli("wait", "-q", "--timeout", TRIES_SECONDS, self._image.reference, status=None)
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            return False
        self.als.start()
        return True

    def dies_and_goes_on(self, point: faults.Point) -> bool:
        died = self.killed(point)
        self.check()
        return died

    def _bring(self, image: Lazy) -> None:
        self.site.look_up(image)
        self.als.cli("wait", "-q", image.reference)
        assert self.site.is_sealed(image)

    def _is_sound(self, *options: str) -> None:
        assert self._found(*options) == []

    def _found(self, *options: str) -> list[object]:
        done: Completed = self.als.cli("fsck", *options, "--json", status=None)
        found: list[object] = json.loads(done.stdout)["found"]
        return found

    def _contents(self) -> set[str]:
        root = self.als.root
        return contents(root) | {str(path.relative_to(root)) for path in (root / "lazy").iterdir()}


@pytest.fixture
def tried(as_root: None, module_dir: Path, tmp_path: Path) -> Iterator[Tried]:
    with RegistryServer(tmp_path / "registry") as registry, BlobProxy(registry.address) as proxy:
        shop = Shop(tmp_path / "oci", registry, proxy)
        kept = shop.image("kept", [layer("zstd:chunked", SMALL)])
        image = shop.image("new", [layer("zstd:chunked", SMALL), layer("estargz", LARGE)])
        with Site(tmp_path / "site", proxy, QUIET) as site:
            yield Tried(site, kept, image)


def few(points: list[faults.Point]) -> list[faults.Point]:
    """Every fourth of a sample, for each takes seconds; all of them with ``make soak``."""
    return points if ALL else sample(points, 0)[::4]


def test_no_space_at_any_allocation(tried: Tried) -> None:
    points = tried.points()
    assert {point.syscall for point in points} >= {"mkdir", "rename", "syncfs", "fsync", "pwrite64"}
    failures, chosen = 0, few(points)
    for number, point in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)} {point}")
        with tried.failing(point, "ENOSPC", "+"):
            said = tried.attempt()
        if said:
            failures += 1
            assert "no space left" in said.lower() and str(tried.als.root) in said, (point, said)
        tried.check()
    assert failures >= len(chosen) // 2


def test_other_refusals(tried: Tried) -> None:
    """A disk that reports errors, and a kernel without a descriptor or memory to spare; each of them once."""
    chosen = few(tried.points())
    for number, point in enumerate(chosen):
        print(f"{number + 1}/{len(chosen)} {point}")
        with tried.failing(point, REFUSALS[number % len(REFUSALS)]):
            tried.attempt()
        tried.check()


def test_killed_at_a_system_call(tried: Tried) -> None:
    """The daemon is, with a layer shown, read, filled or sealed in part; the next one goes on."""
    points = tried.points(CHANGES)
    assert {point.syscall for point in points} >= {"mkdir", "rename", "syncfs", "fsync", "link", "write", "rmdir"}
    chosen = few(points)
    # Which thread makes which call differs, so that some come too late.
    assert sum([tried.dies_and_goes_on(point) for point in chosen]) >= len(chosen) // 2
