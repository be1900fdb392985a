"""Asking this machine: its paths, its podman, and als doctor as a whole."""

from __future__ import annotations

import io
import json
import os
import pwd
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from als.cli.doctor import command
from als.config import Config
from als.doctor.facts import Answer, MirrorFacts
from als.doctor.gather import answer_of, gather, mirror_facts, podman_facts
from als.mount.unmounting import unmounting
from als.native import mounts

USERS = {"root": 0, "ours": 1000, "theirs": 1001, "broken": 1002, "without": 1003}


@pytest.fixture
def config(module_dir: Path) -> Config:
    root = Path(tempfile.mkdtemp(prefix="root-", dir=module_dir))
    (root / "store").mkdir()
    (root / "is4").mkdir()
    return Config(root=root, run=root / "run", mirror_port=0)


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


def test_the_mirror_and_who_is_told_to_ask_it(tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    environment = {"CONTAINERS_REGISTRIES_CONF": str(conf), "CONTAINERS_REGISTRIES_CONF_DIR": str(tmp_path / "none")}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        conf.write_text(
            f'[[registry]]\nlocation = "a.io"\n[[registry.mirror]]\nlocation = "127.0.0.1:{port}/a.io"\n'
            '[[registry]]\nlocation = "b.io"\n[[registry.mirror]]\nlocation = "127.0.0.1:9/b.io"\n'
            '[[registry]]\nlocation = "c.io"\n[[registry.mirror]]\nlocation = "other.example/c.io"\n',
            "utf-8",
        )
        assert mirror_facts(port, environment) == MirrorFacts(port, True, ("a.io",), ("b.io",))
    assert mirror_facts(port, environment) == MirrorFacts(port, False, ("a.io",), ("b.io",))
    assert mirror_facts(0, environment) == MirrorFacts(0)
    conf.write_text("[[registry", "utf-8")
    assert "not TOML" in mirror_facts(port, environment).problem


def test_what_hides_the_file_of_the_machine(environment: dict[str, str], tmp_path: Path) -> None:
    (named,) = podman_facts(environment).hiding
    assert named.startswith("CONTAINERS_STORAGE_CONF=")
    plain = {"PATH": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    assert podman_facts(plain).hiding == ()
    own = tmp_path / "containers" / "storage.conf"
    own.parent.mkdir()
    own.write_text("[storage]\n", "utf-8")
    assert podman_facts({**plain, "STORAGE_OPTS": "overlay.size=1G"}).hiding == (str(own), "STORAGE_OPTS=overlay.size=1G")


def test_podman_4_notes_whether_it_maps_by_the_kernel(config: Config, environment: dict[str, str]) -> None:
    without = {**environment, "PATH": str(config.root)}
    assert podman_facts(without).idmapped
    note = config.root / "runroot" / "overlay" / "idmapped-lower-dir-false"
    note.parent.mkdir(parents=True)
    note.touch()
    assert not podman_facts(without).idmapped


def test_users_who_name_our_stores(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [pwd.struct_passwd((name, "x", uid, uid, "", str(tmp_path / name), "")) for name, uid in USERS.items()]
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    texts = {
        "root": f'[storage.options]\nadditionalimagestores = ["{config.image_store4}"]\n',
        "ours": f'[storage.options]\nadditionallayerstores = ["{config.layer_store}:ref"]\n',
        "theirs": '[storage.options]\nadditionalimagestores = ["/srv"]\n',
        "broken": "[storage",
    }
    for name, text in texts.items():
        folder = tmp_path / name / ".config" / "containers"
        folder.mkdir(parents=True)
        (folder / "storage.conf").write_text(text, "utf-8")
    facts = podman_facts({"PATH": str(tmp_path)}, config)
    assert facts.rootless == (tmp_path / "ours" / ".config" / "containers" / "storage.conf",)
