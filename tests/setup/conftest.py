"""A machine's configuration of one's own: podman that reads /etc as everybody does, in a mount namespace where /etc is ours."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CACHE
from tests.harness.als import AlsDaemon
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.podman import Binaries, Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.system import Completed, MountNamespace, free_port, run

STORAGE_CONF = """\
# Kept by hand.
[storage]
driver = "overlay"
graphroot = "{graph}" # on the large disk
runroot = "{run}"

[storage.options]
# additionalimagestores = []

[storage.options.overlay]
mountopt = "nodev"
"""


class Machine:
    """podman and als with a private /etc/containers, /var/lib and /run, below `base`."""

    def __init__(self, base: Path, registry: RegistryServer, binaries: Binaries | None = None) -> None:
        binaries = binaries or Binaries()
        self.port = free_port()
        self.als = AlsDaemon(base, mirror_port=self.port)
        self._configuration = base / "setup.toml"
        self._configuration.write_text(f"mirror_port = {self.port}\n", "ascii")
        self.binary = shutil.which(binaries.podman) or binaries.podman
        # For its containers.conf and policy; its own storage.conf and registries.conf are not used here.
        self._podman = Podman(base / "p", Storage(insecure=(registry.address,)), binaries)
        self.etc = base / "etc"
        self.graph, self.run_root = base / "g", base / "r"
        for folder in (self.etc, base / "lib", base / "rundir"):
            folder.mkdir()
        shutil.copytree("/etc/containers", self.etc, dirs_exist_ok=True, symlinks=True)
        (self.etc / "storage.conf").write_text(STORAGE_CONF.format(graph=self.graph, run=self.run_root), "utf-8")
        shutil.copy(base / "p" / "registries.conf", self.etc / "registries.conf")
        hidden = ("CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF")
        self.environment = {name: value for name, value in self._podman.environment.items() if name not in hidden}
        self.environment["PATH"] = f"{Path(self.binary).parent}:{os.environ['PATH']}"
        # The daemon has to see container mounts, so it runs outside; it is told of the files that everybody reads inside.
        names = {"CONTAINERS_STORAGE_CONF": "storage.conf", "CONTAINERS_REGISTRIES_CONF": "registries.conf"}
        self.als.environment |= self.environment | {name: str(self.etc / file) for name, file in names.items()}
        self._namespace = MountNamespace()
        for source, target in ((self.etc, "/etc/containers"), (base / "lib", "/var/lib"), (base / "rundir", "/run")):
            run(*self._namespace.command("mount", "--bind", str(source), target))

    def podman(self, *arguments: str | Path, status: int | None = 0, deadline: float = 120) -> Completed:
        command = self._namespace.command(self.binary, *map(str, arguments))
        return run(*command, env=self.environment, status=status, deadline=deadline)

    def output(self, *arguments: str | Path) -> str:
        """Standard output of podman."""
        return self.podman(*arguments).stdout.decode()

    def said(self, image: str, *command: str) -> str:
        """What a container of an image says, from its log: podman may end before it has passed all of that on."""
        self.podman("run", "--name", "speaker", image, *command)
        text = self.output("logs", "speaker")
        self.podman("rm", "speaker")
        return text

    def _als(self, *arguments: str) -> list[str]:
        where = ["--config", self._configuration, "--root", self.als.root, "--run", self.als.run]
        return [sys.executable, "-m", "als", *map(str, where), *arguments]

    def cli(self, *arguments: str, status: int | None = 0) -> Completed:
        """``als``, where the private /etc is seen."""
        command = self._namespace.command(*self._als(*arguments))
        return run(*command, env=self.environment, status=status)

    def setup(self, *arguments: str) -> str:
        """``als setup``."""
        return self.cli("setup", *arguments).stdout.decode()

    def as_nobody(self, *arguments: str) -> Completed:
        """``als`` as an ordinary user; it fails."""
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        return run(*self._namespace.command(*user, *self._als(*arguments)), status=1)

    def remount_etc(self, mode: str) -> Completed:
        """Make /etc/containers read-only ("ro") or writable again ("rw")."""
        return run(*self._namespace.command("mount", "-o", f"remount,bind,{mode}", "/etc/containers"))

    def doctor(self) -> dict[str, list[str]]:
        """What ``als doctor`` finds, by level."""
        lines = self.cli("doctor", "--json", status=None).stdout.splitlines()
        found: dict[str, list[str]] = {"ok": [], "warn": [], "error": []}
        for line in map(json.loads, lines):
            found[line["level"]].append(f"{line['subject']}: {line['what']}")
        return found

    def info(self) -> dict[str, Any]:
        """The storage part of ``podman info``."""
        return dict(json.loads(self.output("info", "--format", "json"))["store"])

    def own_layers(self) -> int:
        """How many layers podman keeps itself."""
        path = self.graph / "overlay-layers" / "layers.json"
        return len(json.loads(path.read_bytes())) if path.exists() else 0

    def files(self) -> dict[str, bytes]:
        """All of /etc/containers."""
        return {str(path.relative_to(self.etc)): path.read_bytes() for path in self.etc.rglob("*") if path.is_file()}

    def close(self) -> None:
        try:
            self.podman("rm", "-fa", "-t", "0", status=None)
        finally:
            self._namespace.close()
            self._podman.close()
            self.als.close()


@pytest.fixture(scope="module")
def registry(session_dir: Path) -> Iterator[RegistryServer]:
    with RegistryServer(session_dir / "registry-of-setup") as server:
        yield server


@pytest.fixture(scope="module")
def image(session_dir: Path, registry: RegistryServer) -> str:
    """The reference of an image that runs."""
    images = ImageFactory(session_dir / "oci-of-setup")
    images.runnable("plain")
    return registry.push(images.layout.name("plain"), "plain:latest")


@pytest.fixture(params=["trixie", "forky"])
def modern_machine(
    as_root: None, module_dir: Path, registry: RegistryServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    """The same with podman 5.4 and 5.8."""
    try:
        binaries = binaries_of(request.param, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    base = module_dir / tmp_path.name[-12:]
    base.mkdir()
    machine = Machine(base, registry, binaries)
    try:
        yield machine
    finally:
        machine.close()


@pytest.fixture
def machine(as_root: None, module_dir: Path, registry: RegistryServer, tmp_path: Path) -> Iterator[Machine]:
    base = module_dir / tmp_path.name[-12:]
    base.mkdir()
    machine = Machine(base, registry)
    try:
        yield machine
    finally:
        machine.close()
