"""Asking this machine: its paths, its podman, and als doctor as a whole."""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from als.cli.doctor import command
from als.config import Config
from als.doctor.facts import Answer
from als.doctor.gather import answer_of, gather, podman_facts
from als.mount.unmounting import unmounting
from als.native import mounts


@pytest.fixture
def config(module_dir: Path) -> Config:
    root = Path(tempfile.mkdtemp(prefix="root-", dir=module_dir))
    (root / "store").mkdir()
    (root / "is4").mkdir()
    return Config(root=root, run=root / "run")


@pytest.fixture
def environment(config: Config) -> dict[str, str]:
    """An environment in which podman keeps everything below the root, and knows of als."""
    (config.root / "storage.conf").write_text(
        f"""[storage]
driver = "overlay"
graphroot = "{config.root}/graph"
runroot = "{config.root}/runroot"
[storage.options]
additionallayerstores = ["{config.layer_store}:ref"]
additionalimagestores = ["{config.image_store4}"]
[storage.options.overlay]
mountopt = "nodev,metacopy=on"
"""
    )
    return {**os.environ, "CONTAINERS_STORAGE_CONF": str(config.root / "storage.conf")}


@pytest.fixture
def connection(config: Config, as_root: None) -> Iterator[io.FileIO]:
    """A FUSE mount on the layer store that never answers; closing its connection makes it a dead one."""
    with io.FileIO("/dev/fuse", "r+") as file, unmounting(config.layer_store):
        options = f"fd={file.fileno()},rootmode=40000,user_id=0,group_id=0"
        mounts.mount("als-test", config.layer_store, "fuse", options=options)
        yield file


def test_answers(tmp_path: Path) -> None:
    assert answer_of(tmp_path) is Answer.FINE
    assert answer_of(tmp_path / "missing") is Answer.MISSING
    assert answer_of(tmp_path / ("x" * 300)) is Answer.REFUSED


def test_a_hanging_path_is_given_up(config: Config, connection: io.FileIO) -> None:
    begin = time.monotonic()
    assert answer_of(config.layer_store, seconds=0.2) is Answer.HANGS
    assert time.monotonic() - begin < 5
    connection.close()
    assert answer_of(config.layer_store) is Answer.DEAD


@pytest.mark.usefixtures("as_root")
def test_podman_tells_its_settings(config: Config, environment: dict[str, str]) -> None:
    facts = podman_facts(environment)
    assert facts.problem == facts.storage_problem == ""
    assert facts.version is not None
    assert facts.version >= (4, 3)
    assert facts.storage is not None
    assert facts.storage.layer_stores == (f"{config.layer_store}:ref",)
    assert facts.storage.image_stores == (str(config.image_store4),)
    assert facts.storage.mount_options == ("nodev", "metacopy=on")
    assert facts.storage.graph_root == f"{config.root}/graph"


def test_podman_fails_but_the_file_is_read(config: Config, environment: dict[str, str], connection: io.FileIO) -> None:
    connection.close()
    facts = gather(config, environment)
    assert "podman info" in facts.podman.problem
    assert facts.podman.storage is not None
    assert facts.podman.storage.layer_stores == (f"{config.layer_store}:ref",)
    assert facts.store.layer_store_answer is Answer.DEAD
    assert facts.store.layer_store_mounted


def test_without_podman(environment: dict[str, str], config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(config.root))
    facts = podman_facts({**environment, "PATH": str(config.root)})
    assert (facts.version, facts.problem) == (None, "podman is not installed")
    assert facts.storage is not None


def test_a_root_that_is_not_there_yet(config: Config, environment: dict[str, str]) -> None:
    store = gather(Config(root=config.root / "not" / "yet"), environment).store
    assert store.layer_store_answer is Answer.MISSING
    assert store.total_bytes > 0
    assert not (config.root / "not").exists()


def lines(config: Config, environment: dict[str, str]) -> tuple[int, list[dict[str, str]]]:
    """Exit status and report of ``als doctor --json``."""
    result = CliRunner().invoke(command, ["--json"], obj=config, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("as_root")
def test_the_command_on_a_good_machine(config: Config, environment: dict[str, str]) -> None:
    status, report = lines(config, environment)
    assert [line for line in report if line["level"] == "error"] == []
    assert status == 0
    text = CliRunner().invoke(command, [], obj=config, env=environment).stdout
    assert f"additionallayerstores names {config.layer_store}" in text
    assert "    -> " in text


@pytest.mark.usefixtures("as_root")
def test_the_command_finds_a_missing_metacopy(config: Config, environment: dict[str, str]) -> None:
    file = Path(environment["CONTAINERS_STORAGE_CONF"])
    file.write_text(file.read_text().replace(",metacopy=on", ""))
    status, report = lines(config, environment)
    (error,) = [line for line in report if line["level"] == "error"]
    assert status == 1
    assert "lacks metacopy=on" in error["what"]


def test_the_command_finds_a_dead_mount(config: Config, environment: dict[str, str], connection: io.FileIO) -> None:
    connection.close()
    status, report = lines(config, environment)
    assert status == 1
    errors = {line["subject"]: line for line in report if line["level"] == "error"}
    assert set(errors) == {str(config.layer_store), "podman"}
    assert "umount -l" in errors[str(config.layer_store)]["remedy"]
