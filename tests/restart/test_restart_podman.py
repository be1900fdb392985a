"""Whatever becomes of the daemon, every podman command works: the path in storage.conf never stands in its way."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from als.mount.lazy import SOURCE
from tests.conftest import CACHE
from tests.formats.lazylayers import LazyLayer as Sample
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.kills import daemon_of
from tests.harness.ocilayout import TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.harness.system import mounts, wait_until
from tests.lazily.images import layer, runnable, stored
from tests.lazy.site import noise

DEADLINE = 3.0
"""Of lookups, and so of the keeper's patience with a daemon that hangs: its least is 5 seconds."""


SETTINGS = {"lookup_deadline": DEADLINE, "lazy": "always", "background": False}


def lazily_served(stack: Stack) -> bool:
    """Whether anything is mounted that cannot do without a daemon."""
    return any(mount.source == SOURCE and mount.point.is_relative_to(stack.als.root) for mount in mounts())


class Used:
    """A podman with an image of the store, and further ones to pull."""

    def __init__(self, stack: Stack, images: ImageFactory) -> None:
        self.stack = stack
        self._images = images
        self._count = 0
        self.first = self._push()
        stack.als.cli("pull", "-q", self.first)
        stack.pull(self.first)
        if stack.podman.version >= (5,):
            # One that stays lazy, because nobody reads its large file: podman lists its folders in nearly each command.
            files = {"d/text": b"lazy", "d/rest": noise(3_000_000, 1)}
            stack.pull(self._pushed("lazy", [layer("estargz", files)]))
            assert lazily_served(stack)

    def _pushed(self, tag: str, layers: list[Sample]) -> str:
        layout = self._images.layout
        layout.add_image(tag, [stored(layout, sample) for sample in layers])
        return self.stack.registry.push(layout.name(tag), f"{tag}:latest")

    def _push(self) -> str:
        self._count += 1
        tag = f"kept{self._count}"
        text = tag.encode()
        if not self._count % 2:
            # For these, podman 5 and later ask the layer store.
            return self._pushed(tag, [runnable("estargz"), layer("estargz", {"d/text": text})])
        self._images.runnable(tag, [TarBuilder().directory("d").file("d/text", text).build()])
        return self.stack.registry.push(self._images.layout.name(tag), f"{tag}:latest")

    def use(self) -> None:
        """What people do all day, pulls of something new included: a plain image, and one that could be lazy."""
        podman = self.stack.podman
        assert self.first in podman.text("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
        podman("ps", "-a")
        assert podman.run(self.first, "cat", "/d/text") == "kept1"
        for _ in range(2):
            new = self._push()
            podman.pull(new)
            assert podman.run(new, "cat", "/d/text") == f"kept{self._count}"


@pytest.fixture(params=["bookworm", "trixie", "forky"])
def used(request: pytest.FixtureRequest, as_root: None, module_dir: Path) -> Iterator[Used]:
    """For podman 4.3, 5.4 and 5.8."""
    try:
        binaries = binaries_of(request.param, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    base = Path(tempfile.mkdtemp(prefix="u", dir=module_dir))
    with (
        RegistryServer(base / "registry") as registry,
        Stack(base, registry, binaries, settings=SETTINGS, keep=True) as stack,
    ):
        yield Used(stack, ImageFactory(base / "oci"))
        print(stack.als.log_text()[-6000:])


def test_killed_restarted_hanging_and_gone(used: Used) -> None:
    als = used.stack.als
    used.use()
    before = als.serving_pid
    os.kill(before, signal.SIGKILL)
    used.use()
    als.replaced(before)
    before = als.serving_pid
    with ThreadPoolExecutor(1) as pool:
        commands = pool.submit(used.use)
        os.kill(als.pid, signal.SIGHUP)
        commands.result(120)
    als.replaced(before)
    os.kill(als.serving_pid, signal.SIGSTOP)
    used.use()
    assert als.stop() == 0
    assert not lazily_served(used.stack)
    used.use()
    als.start()
    used.use()
    assert lazily_served(used.stack) == (used.stack.podman.version >= (5,))


@pytest.mark.parametrize("used", ["bookworm", "forky"], indirect=True)
def test_dying_again_and_again(used: Used) -> None:
    als = used.stack.als
    # From now on it ends as soon as it begins.
    als.configure(root=7)
    os.kill(daemon_of(als.pid), signal.SIGKILL)
    if not lazily_served(used.stack):
        # A command that just waits for what only als can show fails when als is given up, as a read does.
        used.use()
    wait_until(lambda: not any(mount.point == als.store for mount in mounts()), "what is mounted is taken away")
    wait_until(lambda: not lazily_served(used.stack), "what cannot do without is taken away as well")
    used.use()
    assert "podman pulls without als" in als.log_text()
