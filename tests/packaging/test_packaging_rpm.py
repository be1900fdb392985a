"""The RPM: it builds from an archive without a network, holds what it should, and rpmlint finds nothing in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from als.cli.main import cli
from als.config import DEFAULT_FILE, load_config
from tests.harness.system import run
from tests.packaging.package import ROOT, Built, build

EXPECTED = {
    "/etc/als/als.toml",
    "/usr/bin/als",
    "/usr/lib/systemd/system-preset/85-als.preset",
    "/usr/lib/systemd/system/als-gc.service",
    "/usr/lib/systemd/system/als-gc.timer",
    "/usr/lib/systemd/system/als-mount.service",
    "/usr/lib/systemd/system/als-unmount.service",
    "/usr/lib/systemd/system/als.service",
    "/usr/lib/sysusers.d/als.conf",
    "/usr/lib/tmpfiles.d/als.conf",
    "/usr/share/als/registries.conf.example",
    "/usr/share/als/storage.conf.example",
    "/usr/share/bash-completion/completions/als",
    "/usr/share/fish/vendor_completions.d/als.fish",
    "/usr/share/zsh/site-functions/_als",
    "/var/lib/als",
}


def test_it_has_all_parts_and_nothing_outside_of_its_folders(built: Built) -> None:
    files = built.files()
    assert files >= EXPECTED
    modules = {path for path in files if re.search(r"/als/", path) and path.endswith(".py")}
    packaged = {path.partition("-packages/")[2] for path in modules}
    assert packaged == {str(path.relative_to(ROOT)) for path in (ROOT / "als").rglob("*.py")}
    assert any(re.search(r"/als/_kernel\.abi3\.so$", path) for path in files)
    folders = r"usr/lib(64)?/python3[^/]*/[a-z]+-packages/als|usr/lib/(\.build-id|debug)"
    folders += r"|usr/share/(als$|(als|doc|licenses|man)/)|etc/als$"
    own = re.compile(f"/({folders})")
    assert not {path for path in files - EXPECTED if not own.match(path)}
    assert not {path for path in files if re.search(r"/(tests|bench|cffi_build|direct_url\.json)", path)}


def test_each_verb_has_a_manual_page(built: Built) -> None:
    pages = {re.sub(r"\.(gz|xz|zst)$", "", Path(path).name) for path in built.files() if path.startswith("/usr/share/man/")}
    assert pages >= {"als.1", "als.toml.5", *(f"als-{verb}.1" for verb in cli.list_commands(click.Context(cli)))}


def test_settings_survive_an_upgrade_and_are_the_only_configuration(built: Built) -> None:
    assert built.files("--configfiles") == {"/etc/als/als.toml"}
    flags = dict(line.split(" ", 1) for line in built.query("--qf", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]").splitlines())
    assert flags["/etc/als/als.toml"] == "cn", "config, noreplace"
    assert str(DEFAULT_FILE) == "/etc/als/als.toml"


def test_podman_is_recommended_and_not_required(built: Built) -> None:
    assert "podman" in built.query("--recommends").split()
    required = built.query("--requires").split()
    assert "fuse3" in required
    assert "podman" not in required


def test_it_writes_no_file_of_others_and_says_how_to_switch_on(built: Built) -> None:
    assert not {path for path in built.files() if path.startswith(("/etc/containers", "/usr/share/containers"))}
    assert "als setup --apply" in built.query("--info")
    assert "disable als.service" in (ROOT / "packaging" / "als.preset").read_text("utf-8")


def test_rpmlint_finds_nothing(built: Built) -> None:
    if shutil.which("rpmlint") is None:
        pytest.skip("rpmlint is not installed")
    configuration = ROOT / "packaging" / "rpmlint.toml"
    done = run("rpmlint", "--config", configuration, built.rpm, built.source_rpm, ROOT / "packaging" / "als.spec", status=None)
    said = done.stdout.decode()
    assert re.search(r"\b0 errors, 0 warnings\b", said), said
    assert done.returncode == 0


def test_the_settings_it_installs_are_the_defaults(unpacked: Path) -> None:
    assert load_config(unpacked / "etc/als/als.toml") == load_config(Path(os.devnull))


def test_its_program_runs(unpacked: Path) -> None:
    """By the interpreter of these tests, which has the Python packages that als needs."""
    (folder,) = unpacked.glob("usr/lib*/python3*/*-packages")
    command = [sys.executable, "-P", unpacked / "usr/bin/als", "--help"]
    done = subprocess.run(command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=60, check=True)
    missing = [verb for verb in cli.list_commands(click.Context(cli)) if f"\n  {verb} " not in done.stdout]
    assert not missing


def test_the_user_of_the_workers_can_be_made(unpacked: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd is not installed")
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", unpacked / "usr/lib/sysusers.d/als.conf")
    made = (tmp_path / "etc/passwd").read_text("utf-8").split(":")
    assert made[0] == "als"
    assert 0 < int(made[2]) < 1000
    assert made[-1].strip().endswith("nologin")


def test_folders_that_storage_conf_names_are_there_before_als_runs(unpacked: Path, tmp_path: Path, as_root: None) -> None:
    if shutil.which("systemd-tmpfiles") is None:
        pytest.skip("systemd is not installed")
    run("systemd-tmpfiles", f"--root={tmp_path}", "--create", unpacked / "usr/lib/tmpfiles.d/als.conf")
    modes = {path: (tmp_path / "var/lib/als" / path).stat().st_mode & 0o7777 for path in ("", "store", "is4", "image-store")}
    # The image stores as als.store.closed has them, also between a boot and the daemon's start.
    assert modes == {"": 0o711, "store": 0o755, "is4": 0o700, "image-store": 0o700}


def test_rpm_installs_upgrades_and_removes_it(built: Built, tmp_path: Path, as_root: None) -> None:
    """In a root of its own, scriptlets aside, which need a system."""
    root = tmp_path / "root"
    rpm = ["rpm", "--root", str(root), "--nodeps", "--noscripts", "--force-debian"]
    if "--force-debian" not in run("rpm", "--help").stdout.decode():
        rpm.remove("--force-debian")
    (tmp_path / "new").mkdir()
    newer = build(tmp_path / "new", release=2)
    run(*rpm, "--install", built.rpm)
    settings = root / "etc/als/als.toml"
    settings.write_text('log_level = "debug"\n', "utf-8")
    (root / "var/lib/als/version").write_text("1\n", "utf-8")
    version = built.query("--qf", "%{VERSION}")
    run(*rpm, "--upgrade", newer.rpm)
    assert settings.read_text("utf-8") == 'log_level = "debug"\n'
    assert run("rpm", "--root", root, "-q", "als").stdout.decode().startswith(f"als-{version}-2")
    run("rpm", "--root", root, "--erase", "--noscripts", "als")
    assert (root / "var/lib/als/version").exists(), "the store stays"
    assert (root / "etc/als/als.toml.rpmsave").read_text("utf-8") == 'log_level = "debug"\n'
    left = {path.name for path in root.rglob("*als*") if "var/lib/rpm" not in str(path)}
    assert left == {"als", "als.toml.rpmsave"}
