"""Ways to have an image's container run that has not been pulled: plain overlay, stargz-store, als; each with nothing kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.link import ShapedLink
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.harness.system import mounts_below, stop_process, unmount_below, wait_until

RUN_DEADLINE = 600.0


@dataclass(frozen=True)
class Cold:
    """One run of a container of an image of which nothing was here."""

    seconds: float
    """From the start of ``podman run`` to the first byte of output."""
    received: int
    """Bytes that had come over the link by then."""
    output: str


@dataclass(frozen=True)
class Way:
    """A way to run containers.

    :param podman: a podman without any image; the folder is new. It ends with the context.
    """

    name: str
    reference: str
    podman: Callable[[Path], Iterator[Podman]]

    def cold(self, folder: Path, link: ShapedLink, command: tuple[str, ...]) -> Cold:
        """Run a command in a new container of an image that has to come from the registry."""
        with contextmanager(self.podman)(folder) as podman:
            podman("info")  # So that an empty store exists already.
            return first_output(podman, link, self.reference, command)


def first_output(podman: Podman, link: ShapedLink, reference: str, command: tuple[str, ...]) -> Cold:
    """``podman run``, pulling what is not here, up to its first byte of output; then it may end."""
    before, begin = link.received, time.perf_counter()
    process = podman.start("run", "--rm", "--quiet", reference, *command)
    assert process.stdout is not None
    # Not by the file object: what it has read ahead communicate() would not see.
    first = os.read(process.stdout.fileno(), 1)
    seconds, received = time.perf_counter() - begin, link.received - before
    rest, errors = process.communicate(timeout=RUN_DEADLINE)
    if process.returncode:
        raise RuntimeError(
            f"podman run {reference} ended with {process.returncode}: {errors.decode('utf-8', 'replace')[-2000:]}"
        )
    return Cold(seconds, received, (first + rest).decode())


def version_of(binaries: Binaries) -> str:
    return ".".join(map(str, binaries.version))


def overlay(binaries: Binaries, reference: str, link: ShapedLink) -> Way:
    """Podman's own pull into plain overlay storage."""

    def podman(folder: Path) -> Iterator[Podman]:
        with Podman(folder, Storage(metacopy=False, insecure=(link.address,)), binaries) as plain:
            yield plain

    return Way(f"podman {version_of(binaries)} overlay", reference, podman)


def als(
    binaries: Binaries,
    reference: str,
    link: ShapedLink,
    registry: RegistryServer,
    kind: str,
    settings: Mapping[str, object] | None = None,
) -> Way:
    """The daemon with all its faces, and whatever it does with this kind of image.

    :param settings: of the daemon, beside those that it needs.
    """

    def podman(folder: Path) -> Iterator[Podman]:
        with Stack(folder, registry, binaries, insecure=(link.address,), settings=settings) as stack:
            yield stack.podman

    return Way(f"podman {version_of(binaries)} als {kind}", reference, podman)


def stargz(program: Path, binaries: Binaries, reference: str, link: ShapedLink, kind: str) -> Way:
    """stargz-snapshotter's additional layer store."""

    def podman(folder: Path) -> Iterator[Podman]:
        with ExitStack() as stack:
            store = stack.enter_context(StargzStore(program, folder, link.address))
            storage = Storage((f"{store.point}:ref",), metacopy=False, insecure=(link.address,))
            yield stack.enter_context(Podman(folder / "p", storage, binaries))

    return Way(f"podman {version_of(binaries)} stargz-store {kind}", reference, podman)


class StargzStore:
    """A store with nothing cached, mounted at `point`; a context manager."""

    def __init__(self, program: Path, folder: Path, registry: str) -> None:
        self.point = folder / "s"
        self._folder = folder
        data, configuration = folder / "d", folder / "store.toml"
        for each in (self.point, data):
            each.mkdir(parents=True)
        host = json.dumps(registry)
        configuration.write_text(
            f"[resolver]\n[resolver.host.{host}]\n[[resolver.host.{host}.mirrors]]\nhost = {host}\ninsecure = true\n", "utf-8"
        )
        words = (program, "--config", configuration, "--root", data, "--addr", folder / "store.sock", self.point)
        self._command = list(map(str, words))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it has mounted something."""
        log = self._folder / "store.log"
        before = len(mounts_below(self._folder))
        with log.open("ab") as output:
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._process = process

        def mounted() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"stargz-store ended: {log.read_text('utf-8')[-2000:]}")
            # Above what one that was killed has left.
            return len(mounts_below(self._folder)) > before

        wait_until(mounted, "stargz-store")

    def kill(self) -> None:
        """End it without warning; what it has mounted stays."""
        assert self._process is not None
        stop_process(self._process, first=signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        unmount_below(self._folder)
        if self._process is not None:
            stop_process(self._process)
