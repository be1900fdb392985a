"""Real podman, and a store whose disk is full: the pull works as it would without als, which says why it did not help; when
there is room again, it does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.podman import Binaries
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.lazy.site import noise
from tests.life.smalldisk import Ballast, file_system
from tests.life.stores import contents

DATA = {"kept": noise(200_000, 1), "big": noise(3_000_000, 2)}


@pytest.fixture(params=["bookworm", "trixie"])
def binaries(request: pytest.FixtureRequest) -> Binaries:
    try:
        return binaries_of(request.param, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def disk(as_root: None, tmp_path: Path) -> Iterator[Path]:
    with file_system(tmp_path, "ext4") as point:
        yield point


def push(registry: RegistryServer, folder: Path) -> dict[str, str]:
    images = ImageFactory(folder)
    for name, data in DATA.items():
        images.runnable(name, [TarBuilder().file("data", data).build()])
    return {name: registry.push(images.layout.name(name), f"{name}:1") for name in DATA}


def is_sound(stack: Stack) -> bool:
    report = json.loads(stack.als.cli("fsck", "--deep", "--json", status=None).stdout)
    return report["found"] == []


def test_podman_does_not_need_the_store(binaries: Binaries, disk: Path, module_dir: Path, tmp_path: Path) -> None:
    base = module_dir / f"s{binaries.version[0]}"
    with RegistryServer(tmp_path / "registry") as registry, Stack(base, registry, binaries, root=disk / "a") as stack:
        names, podman = push(registry, tmp_path / "oci"), stack.podman

        def reads_right(name: str) -> bool:
            told = podman.run(names[name], "sha256sum", "/data").split()[0]
            return told == hashlib.sha256(DATA[name]).hexdigest()

        podman.pull(names["kept"])
        assert reads_right("kept") and podman.own_layers() == []
        before = contents(stack.als.root)
        ballast = Ballast(disk)
        for free in (0, 64 << 10, 1 << 20):
            begin = len(stack.als.log_text())
            ballast.leave_bytes(free)
            podman.pull(names["big"])
            assert reads_right("big") and reads_right("kept"), free
            assert podman.own_layers(), "podman has fetched it by itself"
            log = stack.als.log_text()[begin:]
            assert "no space left" in log.lower() and "Traceback" not in log, log
            podman("rmi", names["big"])
            assert is_sound(stack)
            stack.als.cli("gc")
            assert contents(stack.als.root) == before, free
            ballast.drop()
        podman.pull(names["big"])
        assert reads_right("big") and podman.own_layers() == []
        assert is_sound(stack)
