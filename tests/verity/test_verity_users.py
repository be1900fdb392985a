"""Users who would put an overlay of their own over what als mounts: they read zeros there, so the way to it is closed, and
`als doctor` says why."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.mount.features import kernel_version
from als.store.closed import is_open
from tests.harness.als import AlsDaemon
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.system import Completed, run

BIG = b"what a container reads\n" * 300
USER = pwd.getpwnam("daemon")
"""One that every machine has."""
OVERLAY = 'mount -t overlay -o "$1" overlay "$2" && cat "$2/etc/big"'
AS_USER = f"""
import os, sys
import als.cli.main, als.cli.doctor
os.setgroups([])
os.setresgid({USER.pw_gid}, {USER.pw_gid}, {USER.pw_gid})
os.setresuid({USER.pw_uid}, {USER.pw_uid}, {USER.pw_uid})
als.cli.main.main()
"""
"""The command line in a user's hands, wherever this checkout lies: the modules are read before root's rights are given up."""
SEES_ZEROS = (6, 18)
"""The first Linux that lets a user mount such an overlay."""


@pytest.fixture(scope="module")
def als(as_root: None, module_dir: Path) -> Iterator[AlsDaemon]:
    layout = Layout(module_dir / "images")
    layout.add_image("a", [layout.add_layer(TarBuilder().directory("etc").file("etc/big", BIG).build())])
    with AlsDaemon(module_dir / "s") as daemon:
        daemon.cli("pull", layout.name("a"))
        yield daemon


def lower_directories(als: AlsDaemon) -> list[str]:
    """All pairs of metadata and objects that there are, as the lower directories of an overlay."""
    (shown,) = als.root.glob("is4/chains/*/diff")
    forests = [
        *als.root.glob("is4/chains/*/diff1"),
        *als.root.glob("layers/*/diff1"),
        *als.root.glob("image-store/chains/*/diff"),
    ]
    assert len(forests) == 3
    return [*(f"{shown}:{forest}" for forest in forests), *map(str, (als.root / "objects", als.store))]


def as_user(als: AlsDaemon, lower: str, *, options: str = "") -> Completed:
    """What a user who is root in a user namespace of his own reads through an overlay of his."""
    point = als.root.parent / "point"
    point.mkdir(exist_ok=True)
    point.chmod(0o755)
    user = ("setpriv", f"--reuid={USER.pw_uid}", f"--regid={USER.pw_gid}", "--clear-groups", "unshare", "-Urm")
    return run(*user, "sh", "-c", OVERLAY, "sh", f"{options}ro,lowerdir={lower}", point, status=None)


def opened(als: AlsDaemon) -> list[Path]:
    """Let everybody in, as somebody may who means well."""
    folders = [
        path for path in als.root.rglob("*") if path.is_dir() and not path.is_relative_to(als.store) and is_open_to_us(path)
    ]
    for folder in folders:
        folder.chmod(folder.stat().st_mode | 0o055)
    return folders


def is_open_to_us(folder: Path) -> bool:
    return not os.statvfs(folder).f_flag & os.ST_RDONLY


def doctor(als: AlsDaemon, *, home: Path | None = None) -> list[dict[str, str]]:
    command = als.command("doctor", "--json")
    environment = dict(als.environment)
    if home is not None:
        command[1:3] = ["-c", AS_USER]
        environment |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "XDG_RUNTIME_DIR": str(home / "run")}
    # A store that nobody was told of is an error to the doctor as well.
    lines = run(*command, env=environment, status=1).stdout.splitlines()
    return [found for line in lines if (found := json.loads(line))["level"] == "error"]


@pytest.mark.parametrize("options", ["", "userxattr,"])
def test_a_user_cannot_mount_what_als_shows(als: AlsDaemon, options: str) -> None:
    for lower in lower_directories(als):
        done = as_user(als, lower, options=options)
        assert done.returncode != 0 and not done.stdout, (lower, done)


def test_what_was_opened_is_told_of_and_closed_again(als: AlsDaemon) -> None:
    lower = lower_directories(als)[0]
    opened(als)
    done = as_user(als, lower)
    if kernel_version() >= SEES_ZEROS:
        # The trap: no error, and no byte of what was pulled.
        assert (done.returncode, done.stdout) == (0, bytes(len(BIG)))
    else:
        assert done.returncode != 0 and not done.stdout
    told = {line["subject"]: line["what"] for line in doctor(als) if "read as zeros" in line["what"]}
    assert set(told) == {str(als.root / name) for name in ("is4/chains", "image-store/chains", "layers", "lazy", "objects")}
    als.stop()
    als.start()
    assert not any(is_open(Path(folder)) for folder in told)
    assert as_user(als, lower).returncode != 0
    assert not any("read as zeros" in line["what"] for line in doctor(als))


def test_rootless_podman_that_is_told_of_the_store(als: AlsDaemon, module_dir: Path) -> None:
    """It fails, in each of its commands, and does not run what it would misread; als says why."""
    home = module_dir / "home"
    conf = home / ".config" / "containers" / "storage.conf"
    conf.parent.mkdir(parents=True)
    (home / "run").mkdir(mode=0o700)
    text = '[storage]\ndriver = "overlay"\n[storage.options]\nadditionalimagestores = ["{}"]\n'
    conf.write_text(text.format(als.composefs_store))
    for path in (home, *home.rglob("*")):
        shutil.chown(path, USER.pw_uid, USER.pw_gid)
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "XDG_CONFIG_HOME": str(home / ".config")}
    user = ("setpriv", f"--reuid={USER.pw_uid}", f"--regid={USER.pw_gid}", "--clear-groups")
    try:
        done = run(*user, "podman", "images", env=environment, cwd=home, status=None)
        assert done.returncode != 0
        assert str(als.composefs_store).encode() in done.stderr and b"permission denied" in done.stderr
        (line,) = [line for line in doctor(als, home=home) if line["subject"] == str(conf)]
        assert "closed to users" in line["what"] and "zeros" in line["what"]
    finally:
        # podman leaves a process that holds its user namespace.
        for path in home.rglob("pause.pid"):
            os.kill(int(path.read_text()), signal.SIGKILL)
