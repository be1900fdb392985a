"""docs/podman4.md: user namespaces with podman 4 and images of the store; what fails, and what makes it work."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.setup.machine import metacopy_users
from tests.conftest import CACHE, ROOT
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack

MAPPED = ["--uidmap=0:200000:65536", "--gidmap=0:200000:65536"]
DATA = random.Random(4).randbytes(3_000_000)
NOTE = "idmapped-lower-dir"


@pytest.fixture(scope="module")
def stack(as_root: None, module_dir: Path, registry: RegistryServer) -> Iterator[Stack]:
    try:
        binaries = binaries_of("bookworm", CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with Stack(module_dir, registry, binaries) as running:
        yield running


@pytest.fixture(scope="module")
def owned(stack: Stack, session_dir: Path, registry: RegistryServer) -> str:
    """An image with a large file that belongs to user 1000, pulled through the store."""
    images = ImageFactory(session_dir / "oci-of-userns")
    layers = [
        TarBuilder().directory("home", uid=1000, gid=1001).file("home/data", DATA, uid=1000, gid=1001).build(),
        TarBuilder().file("home/small", b"few bytes\n", uid=7, gid=8).build(),
    ]
    images.runnable("owned", layers)
    reference = registry.push(images.layout.name("owned"), "owned:1")
    stack.pull(reference)
    return reference


def follow_the_document(stack: Stack) -> None:
    """The lines of docs/podman4.md, for this podman's run root."""
    text = (ROOT / "docs" / "podman4.md").read_text("utf-8")
    lines = re.findall(rf"^([rf]) /run/containers/storage/(overlay/{NOTE}-\S+)", text, re.MULTILINE)
    assert lines == [("r", f"overlay/{NOTE}-true"), ("f", f"overlay/{NOTE}-false")]
    for action, name in lines:
        path = stack.podman.run_root / name
        if action == "r":
            path.unlink(missing_ok=True)
        else:
            path.touch()


def test_as_it_is_podman_refuses(stack: Stack, owned: str) -> None:
    done = stack.podman("run", "--rm", "--pull=never", *MAPPED, owned, "/bin/true", status=127)
    assert b"creating overlay mount" in done.stderr
    assert b"no such file or directory" in done.stderr
    assert stack.podman.run(owned, "/bin/true") == ""
    assert stack.podman.json("ps", "-a", "--format", "json") == []


def test_with_the_note_it_works_and_copies_no_data(stack: Stack, owned: str) -> None:
    podman = stack.podman
    follow_the_document(stack)
    podman("run", "--name", "c", "--pull=never", *MAPPED, owned, "/bin/sh", "-c", "ls -ln /home; md5sum /home/data; id -u")
    log = podman.text("logs", "c")
    assert re.search(r" 1000 +1001 +3000000 .* data$", log, re.MULTILINE)
    assert re.search(r" 7 +8 +10 .* small$", log, re.MULTILINE)
    assert hashlib.md5(DATA).hexdigest() in log
    assert log.endswith("\n0")
    (mapped,) = podman.graph_root.glob("overlay/*/diff1/home/data")
    assert (mapped.stat().st_uid, mapped.stat().st_gid) == (201000, 201001), "the owner that the kernel sees"
    held = sum(path.lstat().st_blocks for path in podman.graph_root.glob("overlay/*/diff*/**/data"))
    assert held * 512 <= 4096, "the data stays where it is"
    # The next container with the same mapping, and one without any, find everything as before.
    podman("run", "--name", "d", "--pull=never", *MAPPED, owned, "/bin/sh", "-c", "echo more >>/home/data; wc -c /home/data")
    assert "3000005 /home/data" in podman.text("logs", "d")
    podman("run", "--name", "e", "--pull=never", owned, "/bin/ls", "-ln", "/home")
    assert re.search(r" 1000 +1001 +3000000 .* data$", podman.text("logs", "e"), re.MULTILINE)
    assert len(metacopy_users(podman.graph_root)) == 2


def test_userns_auto(stack: Stack, owned: str) -> None:
    follow_the_document(stack)
    stack.podman.give_subordinate_ids(300000, 100000)
    stack.podman("run", "--name", "a", "--pull=never", "--userns=auto:size=2000", owned, "/bin/ls", "-ln", "/home")
    assert re.search(r" 1000 +1001 +3000000 .* data$", stack.podman.text("logs", "a"), re.MULTILINE)
