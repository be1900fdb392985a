"""``als doctor`` on real machines: states made in a mount namespace, with the podmans of three releases of Debian.

Nothing is told to the checks: they run as a process, and look at what is mounted there. Where a remedy is a command, it is
followed, and the verdict has to change.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.harness.als import AlsDaemon
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.system import Completed, MountNamespace, free_port, run

STORAGE_CONF = Path("/etc/containers/storage.conf")
SUITES = ("bookworm", "trixie", "forky")
OVERLAY = r"\[storage.options.overlay\]"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

pytestmark = pytest.mark.usefixtures("as_root")


@dataclass
class Machine:
    """A Debian on which nobody has set anything: no storage.conf, no store, an empty graph root."""

    als: AlsDaemon
    namespace: MountNamespace
    old: bool
    """podman 4."""
    folder: Path

    def command(self, *words: str | Path, status: int | None = 0) -> Completed:
        """Run a command there."""
        environment = {**self.als.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
        return run(*self.namespace.command(*map(str, words)), env=environment, status=status)

    def doctor(self, status: int) -> list[dict[str, str]]:
        """The lines of the report that are not ``ok``; how the command ended has to fit them."""
        done = self.command(*self.als.command("doctor", "--json"), status=status)
        return [line for text in done.stdout.splitlines() if (line := json.loads(text))["level"] != "ok"]

    def errors(self) -> list[dict[str, str]]:
        return [line for line in self.doctor(1) if line["level"] == "error"]

    def setup(self, *options: str) -> None:
        self.command(*self.als.command("setup", *options, "--apply"))

    def change(self, pattern: str, instead: str) -> None:
        """Change storage.conf there."""
        text = self.command("cat", STORAGE_CONF).stdout.decode()
        changed, count = re.subn(pattern, instead, text)
        assert count == 1, text
        (self.folder / "changed.conf").write_text(changed, "utf-8")
        self.command("cp", self.folder / "changed.conf", STORAGE_CONF)


@pytest.fixture(params=SUITES)
def machine(request: pytest.FixtureRequest, module_dir: Path) -> Iterator[Machine]:
    yield from made(str(request.param), module_dir)


@pytest.fixture
def debian12(module_dir: Path) -> Iterator[Machine]:
    yield from made("bookworm", module_dir)


@pytest.fixture
def debian13(module_dir: Path) -> Iterator[Machine]:
    yield from made("trixie", module_dir)


def made(suite: str, module_dir: Path) -> Iterator[Machine]:
    try:
        binaries = binaries_of(suite, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    folder = Path(tempfile.mkdtemp(prefix=suite[0], dir=module_dir))
    programs = folder / "bin"
    programs.mkdir()
    for name, path in zip(("podman", "crun", "conmon"), binaries.paths().values(), strict=True):
        (programs / name).write_text(f'#!/bin/sh\nexec {path} "$@"\n', "ascii")
        (programs / name).chmod(0o755)
    als = AlsDaemon(folder, settings={"mirror_port": 0})
    shutil.rmtree(als.root)
    als.environment = {"HOME": str(folder), "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"}
    namespace = MountNamespace()
    try:
        there = Machine(als, namespace, binaries.version < (5,), folder)
        for path in ("/etc/containers", "/var/lib/containers", "/run/containers"):
            Path(path).mkdir(parents=True, exist_ok=True)
            there.command("mount", "-t", "tmpfs", "tmpfs", path)
        if binaries.helpers:
            # Where it is installed they lie where it looks by itself.
            (folder / "containers.conf").write_text(f'[engine]\nhelper_binaries_dir = ["{binaries.helpers}"]\n', "utf-8")
            there.command("cp", folder / "containers.conf", "/etc/containers")
        yield there
    finally:
        namespace.close()
        als.close()


def test_fresh_debian_and_what_als_setup_makes_of_it(machine: Machine) -> None:
    found = {(line["subject"], line["what"].partition(":")[0]) for line in machine.errors()}
    image_store = machine.als.image_store if machine.old else machine.als.composefs_store
    whats = " ".join(what for _, what in found)
    assert {str(machine.als.store), str(image_store)} <= {subject for subject, _ in found}, "the folders are not there"
    assert f"additionallayerstores does not name {machine.als.store}" in whats
    assert f"additionalimagestores does not name {image_store}" in whats
    assert "lacks metacopy=on" in whats
    remedies = {line["remedy"].partition(":")[0] for line in machine.errors() if "does not name" in line["what"]}
    assert remedies == {"`als setup --apply`"}
    machine.setup()
    warnings = machine.doctor(0)
    assert {line["level"] for line in warnings} == {"warn"}
    assert any(line["subject"] == str(machine.als.store) and "systemctl start als" in line["remedy"] for line in warnings)


def test_metacopy_off(machine: Machine) -> None:
    machine.setup()
    machine.change(r",metacopy=on", "")
    (error,) = machine.errors()
    assert "lacks metacopy=on: files cannot be read, or are committed as zeros" in error["what"]
    assert error["remedy"].startswith("`als setup --apply`")
    machine.setup()
    machine.doctor(0)


def test_the_other_podmans_image_store(machine: Machine) -> None:
    ours, other = machine.als.image_store, machine.als.composefs_store
    if not machine.old:
        ours, other = other, ours
    machine.setup()
    machine.change(re.escape(str(ours)), str(other))
    errors = machine.errors()
    assert any(f"additionalimagestores does not name {ours}" in line["what"] for line in errors)
    assert any(f"names {other}, whose layout is not made for this podman" in line["what"] for line in errors)
    machine.setup()
    machine.doctor(0)


def test_no_mirror_for_podman_5(debian13: Machine) -> None:
    """Without it ordinary images are downloaded whole: nothing fails, so it is a warning."""
    debian13.als.configure(mirror_port=free_port())
    debian13.setup()

    def told() -> dict[str, str]:
        (line,) = (each for each in debian13.doctor(0) if each["subject"] == "registries.conf")
        return line

    assert told()["level"] == "warn"
    assert "mirror for no registry" in told()["what"]
    assert "with --registry HOST" in told()["remedy"]
    debian13.setup("--registry", "registry.example:5000")
    assert "registry.example:5000, but nobody listens there" in told()["what"]
    assert told()["remedy"] == "`systemctl start als`"


@pytest.mark.parametrize(
    ("pattern", "instead", "what", "remedy"),
    [
        (r'driver = "overlay"', 'driver = "vfs"', "the driver is 'vfs'", 'driver = "overlay"'),
        (r'store:ref"', 'store"', "without `:ref`", "als setup"),
        (OVERLAY, '[storage.options.overlay]\nmount_program = "/bin/true"', "finds no file's data", "remove"),
        (r"\A", "[[storage", "not TOML", "correct the file"),
    ],
)  # fmt: skip
def test_wrong_storage_conf(debian12: Machine, pattern: str, instead: str, what: str, remedy: str) -> None:
    debian12.setup()
    debian12.change(pattern, instead)
    found = [line for line in debian12.errors() if what in line["what"]]
    assert found
    assert remedy in found[0]["remedy"]


def test_no_fuse(debian12: Machine) -> None:
    debian12.setup()
    devices = debian12.folder / "dev"
    (devices / "shm").mkdir(parents=True)
    for name in DEVICES:
        (devices / name).touch()
        debian12.command("mount", "--bind", f"/dev/{name}", devices / name)
    debian12.command("mount", "--rbind", devices, "/dev")
    (error,) = debian12.errors()
    assert (error["subject"], error["what"]) == ("FUSE", "/dev/fuse: No such file or directory")
    assert "modprobe fuse" in error["remedy"]


def test_no_fs_verity(debian12: Machine) -> None:
    """tmpfs has none, whatever the kernel has: a warning, and an error where the settings require it."""
    debian12.setup()
    debian12.command("mount", "-t", "tmpfs", "tmpfs", debian12.als.root)
    for name in ("store", "is4", "image-store"):
        debian12.command("mkdir", debian12.als.root / name)
    for setting, status, level in (("prefer", 0, "warn"), ("require", 1, "error")):
        debian12.als.configure(verity=setting)
        found = [line for line in debian12.doctor(status) if line["subject"] == "fs-verity"]
        assert [line["level"] for line in found] == [level]
        assert all("tune2fs -O verity" in line["remedy"] for line in found)
