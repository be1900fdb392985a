"""`als setup` and real podman: switched on, used, and switched off again."""

from __future__ import annotations

import json
from pathlib import Path

from als.doctor.storageconf import parse_podman_info
from tests.harness.registry import RegistryServer
from tests.setup.conftest import Machine


def test_on_and_off_again(machine: Machine, image: str) -> None:
    machine.podman("run", "--name", "old", image, "/bin/sh", "-c", "echo kept >/file; cat /file")
    before, layers = machine.files(), machine.own_layers()

    shown = machine.setup()
    assert '+mountopt = "nodev,metacopy=on"' in shown
    assert "nothing is written yet" in shown
    assert machine.files() == before

    applied = machine.setup("--apply")
    assert "written: /etc/containers/storage.conf (before: /etc/containers/storage.conf.als-backup)" in applied
    assert f'graphroot = "{machine.graph}" # on the large disk' in (machine.etc / "storage.conf").read_text("utf-8")
    written = machine.files()
    assert "everything is set up" in machine.setup("--apply")
    assert machine.files() == written

    # podman works before the daemon runs, and sees what was set.
    options = machine.info()["graphOptions"]
    assert options["overlay.mountopt"] == "nodev,metacopy=on"
    assert options["overlay.additionallayerstore"] == f"{machine.als.store}:ref"
    assert options["overlay.imagestore"] == str(machine.als.image_store)
    machine.podman("rmi", "-f", image)

    machine.als.start()
    machine.podman("pull", "-q", image)
    assert machine.said(image, "/bin/echo", "from the store") == "from the store\n"
    assert machine.own_layers() < layers, "podman made layers of its own"
    found = machine.doctor()
    assert found["error"] == []
    assert any(f"additionalimagestores names {machine.als.image_store}" in line for line in found["ok"])

    machine.podman("rm", "-fa", "-t", "0")
    machine.podman("rmi", "-f", image)
    undone = machine.setup("--undo")
    assert '-mountopt = "nodev,metacopy=on"' in undone
    assert machine.files() == before
    assert "nothing to take back" in machine.setup("--undo")
    machine.podman("pull", "-q", image)
    assert machine.said(image, "/bin/echo", "as before") == "as before\n"
    assert machine.own_layers() >= layers - 1


def test_containers_from_before_go_on(machine: Machine, image: str) -> None:
    """metacopy=on may be switched on over containers that exist: what they changed is read as it was."""
    change = "chmod 700 /bin/busybox; echo kept >/file; cat /file"
    machine.podman("run", "--name", "stopped", image, "/bin/sh", "-c", change)
    machine.podman("run", "-d", "--name", "running", image, "/bin/sleep", "600")
    machine.podman("exec", "running", "/bin/sh", "-c", change)
    changed = {"A /file", "C /bin/busybox", "C /etc"}
    assert set(machine.output("diff", "stopped").splitlines()) == changed
    machine.setup("--apply")
    machine.podman("start", "-a", "stopped")
    assert machine.output("logs", "stopped") == "kept\nkept\n"
    assert machine.output("exec", "running", "/bin/cat", "/file") == "kept\n"
    # podman compares now by itself, and counts a directory in which a file has changed as changed.
    assert set(machine.output("diff", "stopped").splitlines()) == {*changed, "C /bin"}
    machine.podman("commit", "-q", "stopped", "localhost/committed")
    assert machine.said("localhost/committed", "/bin/cat", "/file") == "kept\n"


def test_off_is_refused_while_containers_need_the_option(machine: Machine, image: str) -> None:
    machine.setup("--apply")
    # Only its attributes are changed, so that with metacopy=on its data stays where it was.
    machine.podman("run", "--name", "c", image, "/bin/chmod", "700", "/bin/busybox")
    written = machine.files()
    refused = machine.cli("setup", "--undo", status=2).stderr.decode()
    assert "metacopy=on alone" in refused
    assert "--keep-metacopy" in refused
    assert machine.files() == written
    machine.setup("--undo", "--keep-metacopy")
    machine.podman("start", "-a", "c")
    assert "metacopy=on" in machine.info()["graphOptions"]["overlay.mountopt"]
    assert "overlay.imagestore" not in machine.info()["graphOptions"]


def test_without_any_storage_conf(machine: Machine, image: str) -> None:
    """As on a fresh Debian: podman's defaults stay what they were."""
    (machine.etc / "storage.conf").unlink()
    before, info = machine.files(), machine.info()
    facts = json.loads(machine.setup("--apply", "--json"))
    assert [(file["path"], file["new"], file["backup"]) for file in facts["files"]] == [
        ("/etc/containers/storage.conf", True, None)
    ]
    now = machine.info()
    for name in ("graphRoot", "runRoot", "graphDriverName"):
        assert now[name] == info[name]
    assert now["graphOptions"]["overlay.mountopt"] == "nodev,metacopy=on"
    machine.setup("--undo")
    assert machine.files() == before
    assert machine.info()["graphOptions"] == info["graphOptions"]


def test_a_storage_conf_without_a_driver(machine: Machine) -> None:
    """podman reads no mount options then, without a word."""
    conf = machine.etc / "storage.conf"
    conf.write_text(conf.read_text("utf-8").replace('driver = "overlay"\n', ""), "utf-8")
    assert "overlay.mountopt" not in machine.info()["graphOptions"]
    machine.setup("--apply")
    assert machine.info()["graphOptions"]["overlay.mountopt"] == "nodev,metacopy=on"


def test_podmans_database_says_vfs(machine: Machine) -> None:
    conf = machine.etc / "storage.conf"
    conf.write_text(conf.read_text("utf-8").replace('driver = "overlay"', 'driver = "vfs"'), "utf-8")
    machine.podman("info")
    conf.write_text(conf.read_text("utf-8").replace('driver = "vfs"', 'driver = "overlay"'), "utf-8")
    before = machine.files()
    refused = machine.cli("setup", "--apply", status=2).stderr.decode()
    assert "'vfs'" in refused
    assert "its database decides" in refused
    assert machine.files() == before


def test_a_read_only_etc(machine: Machine) -> None:
    before = machine.files()
    command = machine.remount_etc("ro")
    assert command.returncode == 0
    refused = machine.cli("setup", "--apply", status=2).stderr.decode()
    assert "Read-only file system" in refused
    machine.remount_etc("rw")
    assert machine.files() == before
    assert "+mountopt" in machine.setup()


def test_podman_5_with_the_mirror(modern_machine: Machine, registry: RegistryServer, image: str) -> None:
    machine = modern_machine
    before = machine.files()
    # The registry has a block already, since it speaks plain HTTP; the mirror has to go into that.
    applied = machine.setup("--apply", "--registry", registry.address)
    assert f'+location = "127.0.0.1:{machine.port}/{registry.address.replace(":", "__")}"' in applied
    assert b"insecure = true" in machine.files()["registries.conf"]
    assert not any(name.endswith("als.conf") for name in machine.files())
    assert "everything is set up" in machine.setup("--apply", "--registry", registry.address)
    told = parse_podman_info({"store": machine.info()})
    assert told.image_stores == (str(machine.als.composefs_store),)
    assert told.layer_stores == (f"{machine.als.store}:ref",)
    assert told.mount_options == ("nodev", "metacopy=on")
    assert any("nobody listens" in line for line in machine.doctor()["warn"])

    machine.als.start()
    found = machine.doctor()
    assert found["error"] == []
    assert any(f"pulls from {registry.address} go through 127.0.0.1:{machine.port}" in line for line in found["ok"])
    machine.podman("pull", "-q", image)
    assert machine.said(image, "/bin/echo", "from the store") == "from the store\n"
    assert machine.own_layers() == 0
    machine.podman("rmi", "-f", image, status=None)
    machine.setup("--undo")
    assert machine.files() == before


def test_wrong_usage(machine: Machine) -> None:
    assert b"exclude each other" in machine.cli("setup", "--apply", "--undo", status=2).stderr
    assert b"goes with --undo" in machine.cli("setup", "--keep-metacopy", status=2).stderr
    assert b"not a registry's name" in machine.cli("setup", "--registry", "https://x", status=2).stderr


def test_as_a_user(machine: Machine, tmp_path: Path) -> None:
    refused = machine.as_nobody("setup").stderr.decode()
    assert "only root" in refused
