"""Every command that README and docs show is run as it stands there, with a real daemon, podman and registry.

What differs is said by `VALUES`: folders, and the registry and image of the examples. ``sudo``, ``als`` and ``podman`` are
found in a folder of scripts that call the ones under test with the test's own configuration.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks_of, with_values
from tests.harness.images import runnable_base
from tests.harness.ocilayout import Layout
from tests.harness.registry import RegistryServer, registry_server
from tests.harness.stack import Stack
from tests.harness.system import free_port

__all__ = ["registry_server"]

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SKIPPED = {
    "installs packages and takes minutes; CI runs it": 4,
    "it would run until it is stopped; the others here use such a daemon": 1,
    "needs systemd": 4,
    "builds a package; tests/packaging does it": 1,
    "measures for many minutes": 1,
}
"""For which reasons blocks may be left out, and how many at most."""
SECONDS = 120.0
COMMAND = re.compile(r"^\s*(?:\$ )?(?:sudo |als |podman |make )", re.MULTILINE)


def all_blocks() -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks_of(document)]


def runnable_documents() -> list[Path]:
    return [path for path in DOCUMENTS if any(block.language == "sh" and not block.reason for block in blocks_of(path))]


class Desk:
    """Where somebody follows the documents."""

    def __init__(self, folder: Path, stack: Stack, values: Mapping[str, str]) -> None:
        self.folder = folder
        self.stack = stack
        self.values = values
        self._bin = folder / "bin"
        self._bin.mkdir()
        self._script("sudo", 'exec "$@"')
        self._script("als", f'exec {" ".join(stack.als.command())} "$@"')
        self._script("podman", f'exec {" ".join(stack.podman.inside(stack.podman.binary))} "$@"')

    def _script(self, name: str, text: str) -> None:
        (self._bin / name).write_text(f"#!/bin/sh\n{text}\n", "utf-8")
        (self._bin / name).chmod(0o755)

    def follow(self, block: Block) -> None:
        """Do what a block says; every command of it has to succeed."""
        environment = {**os.environ, **self.stack.podman.environment, "PYTHONPATH": str(ROOT)}
        environment["PATH"] = f"{self._bin}:{environment['PATH']}"
        script = with_values(block.text, self.values)
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", script],
            cwd=tempfile.mkdtemp(dir=self.folder),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        said = (done.stdout + done.stderr)[-4000:].decode("utf-8", "replace")
        assert done.returncode == 0, f"{block} ended with {done.returncode}:\n{said}"


@pytest.fixture(scope="module")
def desk(module_dir: Path, registry_server: RegistryServer) -> Iterator[Desk]:
    layout = Layout(module_dir / "oci")
    layout.add_image("app", [layout.add_layer(runnable_base())], {"Cmd": ["/bin/sh", "-c", "echo started"]})
    reference = registry_server.push(layout.name("app"), "app:1")
    metrics = free_port()
    with Stack(module_dir / "s", registry_server, settings={"metrics_port": metrics}) as stack:
        values = {
            "/var/lib/als": str(stack.als.root),
            "/run/als": str(stack.als.run),
            "registry.example/app:1": reference,
            "registry.example": registry_server.address,
            "IMAGE": reference,
            "9978": str(metrics),
            "OBJECTS": str(stack.als.root / "exported"),
        }
        yield Desk(module_dir, stack, values)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("document", runnable_documents(), ids=lambda path: path.name)
def test_what_a_document_says_works(document: Path, desk: Desk) -> None:
    # What a reader of any page has: the image of its examples.
    desk.stack.als.cli("pull", "-q", desk.values["IMAGE"])
    for block in blocks_of(document):
        if block.language == "sh" and not block.reason:
            desk.follow(block)
    assert desk.stack.als.serving(), "the daemon outlives what its documents say"


def test_blocks_are_left_out_for_known_reasons() -> None:
    counts = Counter(block.reason for block in all_blocks() if block.reason)
    assert set(counts) <= set(SKIPPED)
    assert all(counts[reason] <= most for reason, most in SKIPPED.items()), counts


def test_commands_are_marked_as_such() -> None:
    hidden = [str(block) for block in all_blocks() if block.language != "sh" and COMMAND.search(block.text)]
    assert not hidden, f"commands in blocks that nobody runs: {hidden}"


def test_values_stand_for_whole_words() -> None:
    values = {"IMAGE": "x:1", "/run/als": "/tmp/r", "registry.example/app:1": "r/a:1", "registry.example": "r"}
    text = "als rm IMAGE; IMAGES /run/als/als.sock registry.example/app:1 registry.example"
    assert with_values(text, values) == "als rm x:1; IMAGES /tmp/r/als.sock r/a:1 r"


def test_a_block_says_why_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("a\n```sh skip: because\nx\n```\n   ```sh\n   y\n   z\n   ```\n")
    assert [(block.line, block.reason, block.text) for block in blocks_of(path)] == [(2, "because", "x\n"), (5, "", "y\nz\n")]
    path.write_text("```sh maybe\nx\n```\n")
    with pytest.raises(ValueError, match="maybe"):
        blocks_of(path)
