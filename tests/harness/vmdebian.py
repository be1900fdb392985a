"""The disk of a small Debian with systemd, podman, crun and a user who may run containers, made by mmdebstrap.

The kernel's modules are copied in; the kernel itself is given to QEMU, so there is no boot loader and no initrd. The file
system has the verity feature. What a machine is to do comes through a folder of the host (:mod:`tests.harness.vm`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.harness.debs import debootstrap
from tests.harness.system import run

USER = "user"
"""A user with subordinate IDs and a running systemd of his own (uid 1000)."""

PACKAGES = """
    systemd-sysv libpam-systemd dbus dbus-user-session udev kmod iproute2 nftables e2fsprogs attr procps util-linux-extra
    podman crun conmon netavark aardvark-dns passt uidmap catatonit skopeo busybox-static docker-registry rpm
    fuse3 erofs-utils fsverity ca-certificates libssl3t64
    python3 python3-cffi python3-click python3-h11 python3-isal python3-pyfuse3 python3-pyxattr
    python3-prometheus-client python3-rich python3-tomlkit python3-trio python3-urllib3 python3-zstandard
"""
"""The last two lines: what als is written in."""
_IDLE = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    getty@tty1.service serial-getty@.service console-getty.service docker-registry.service podman-auto-update.timer
    systemd-pcrlock.service
"""
"""Units that would only take time."""
_SIZE = "8G"
_DEADLINE = 900.0

_TARGET = """\
[Unit]
Description=The job that the host has given
Requires=multi-user.target
Wants=vm-job.service
After=multi-user.target
AllowIsolate=yes
"""

_SERVICE = """\
[Unit]
Description=The job that the host has given
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/vm-job
Delegate=yes
TimeoutStartSec=infinity
TimeoutStopSec=5
Environment=HOME=/root
"""

_MANAGER = """\
[Manager]
# What a job left running (containers, whose first process heeds no SIGTERM) held up the power-off for three minutes.
DefaultTimeoutStopSec=30
"""

_JOB = """\
#!/bin/sh
# The host's folder has the script; output and exit status go back there.
mkdir -p /job && mount -t virtiofs job /job || exit 125
cd /root
bash /job/script </dev/null >/job/output 2>&1
echo $? >/job/status
cd / && umount /job
sync
"""


def debian_disk(suite: str, modules: Path, release: str, folder: Path) -> Path:
    """Make the disk in an empty folder: a sparse file with an ext4.

    :param modules: has ``lib/modules/RELEASE``.
    :raises Unavailable: the packages cannot be downloaded. Not a reason that CI accepts.
    """
    root, image = folder / "root", folder / "disk.img"
    # The documentation is half of the files.
    paths = ["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/share/info/*"]
    debootstrap(suite, PACKAGES.split(), root, *(f"--dpkgopt=path-exclude={path}" for path in paths))
    shutil.copytree(modules / "lib" / "modules" / release, root / "usr" / "lib" / "modules" / release, symlinks=True)
    _set_up(root)
    run("truncate", "-s", _SIZE, image)
    run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-O",
        "verity",
        "-E",
        "lazy_itable_init=1",
        "-d",
        root,
        image,
        deadline=_DEADLINE,
    )
    return image


def _set_up(root: Path) -> None:
    etc = root / "etc"
    (etc / "hostname").write_text("vm\n", "ascii")
    (etc / "hosts").write_text("127.0.0.1 localhost vm\n", "ascii")
    (etc / "fstab").write_text("/dev/root / ext4 rw 0 1\n", "ascii")
    (etc / "machine-id").write_text("", "ascii")
    run("chroot", root, "useradd", "-m", "-s", "/bin/bash", "-u", "1000", USER)
    for name in ("subuid", "subgid"):
        path = etc / name
        if f"{USER}:" not in path.read_text("ascii"):
            with path.open("a", encoding="ascii") as file:
                file.write(f"{USER}:100000:65536\n")
    linger = root / "var" / "lib" / "systemd" / "linger"
    linger.mkdir(parents=True, exist_ok=True)
    (linger / USER).touch()
    units = etc / "systemd" / "system"
    for name in _IDLE.split():
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    manager = etc / "systemd" / "system.conf.d"
    manager.mkdir(parents=True, exist_ok=True)
    (manager / "vm.conf").write_text(_MANAGER, "ascii")
    (units / "vm.target").write_text(_TARGET, "ascii")
    (units / "vm-job.service").write_text(_SERVICE, "ascii")
    job = root / "usr" / "local" / "sbin" / "vm-job"
    job.write_text(_JOB, "ascii")
    job.chmod(0o755)
