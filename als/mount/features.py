"""What this kernel, and the file system under a directory, can do.

Each probe answers with a :class:`Feature`. Where the kernel can be asked by doing the thing, it is; a version number
decides only what cannot be tried without side effects. What the probes read is passed in or named in the signature, so
that every answer can be had in a test.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from als.mount.erofs import can_mount_from_file
from als.mount.table import MountEntry
from als.native import files
from als.native.refusal import Refusal, refusal

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Feature:
    """The answer of one probe."""

    name: str
    ok: bool
    detail: str
    """What was found, a phrase."""
    remedy: str = ""
    """What the administrator can do where it is not ok."""


def parse_kernel_version(release: str) -> Version:
    """Major and minor number of a ``uname -r``; (0, 0) for one without numbers."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def kernel_version() -> Version:
    """Of the running kernel."""
    return parse_kernel_version(os.uname().release)


def _since(name: str, version: Version, needed: Version, remedy: str) -> Feature:
    found = f"Linux {version[0]}.{version[1]}"
    if version >= needed:
        return Feature(name, True, found)
    return Feature(name, False, f"{found}; needs {needed[0]}.{needed[1]}", remedy)


def data_only_lowers(version: Version) -> Feature:
    """Data-only lower layers of overlay (``lowerdir=a::b``): podman >= 5 mounts the image store's layers with them."""
    return _since("overlay data-only layers", version, (6, 5), "podman >= 5 needs them for the image store; podman 4 does not")


def fuse_resend(version: Version) -> Feature:
    """FUSE_NOTIFY_RESEND: a restarted daemon gets the requests again that the killed one left unanswered."""
    return _since("FUSE resend", version, (6, 9), "a daemon that is killed loses the lookups it was answering")


def file_system_known(name: str, filesystems: str, modules: str) -> Feature:
    """Whether the kernel has a file system built in or loaded, or can load it.

    :param filesystems: the text of /proc/filesystems.
    :param modules: the text of modules.dep and modules.builtin of the running kernel; empty where unknown.
    """
    if name in {line.split("\t")[-1] for line in filesystems.splitlines()}:
        return Feature(name, True, "in the kernel")
    if re.search(rf"(^|/){re.escape(name)}\.ko", modules, re.MULTILINE):
        return Feature(name, True, "a module, loaded when needed")
    return Feature(name, False, "not known to the kernel", f"`modprobe {name}`, or a kernel that has it")


def read_file_systems() -> tuple[str, str]:
    """The two texts that :func:`file_system_known` wants, of the running kernel."""
    folder = Path("/lib/modules") / os.uname().release
    lists = [folder / "modules.dep", folder / "modules.builtin"]
    modules = "\n".join(path.read_text(errors="replace") for path in lists if path.is_file())
    return Path("/proc/filesystems").read_text(), modules


def overlay_metacopy(parameters: Path = Path("/sys/module/overlay/parameters")) -> Feature:
    """Whether overlay knows the metacopy and redirect_dir options, on which every file of a layer rests.

    :param parameters: the module's parameter folder; it is missing while the module is not loaded.
    """
    name = "overlay metacopy"
    if not parameters.is_dir():
        return Feature(name, False, "overlay is not loaded", "`modprobe overlay`")
    missing = [option for option in ("metacopy", "redirect_dir") if not (parameters / option).is_file()]
    if missing:
        return Feature(
            name, False, f"overlay without {' and '.join(missing)}", "a kernel built with overlay metacopy (Linux 4.19)"
        )
    return Feature(name, True, "metacopy and redirect_dir are there")


def file_backed_erofs(directory: Path) -> Feature:
    """Whether EROFS images under `directory` mount without loop devices."""
    name = "EROFS from files"
    remedy = "als uses loop devices instead; Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE needs none"
    try:
        possible = can_mount_from_file(directory)
    except OSError as error:
        return _not_asked(name, directory, error)
    return (
        Feature(name, True, "yes")
        if possible
        else Feature(name, False, f"not with this kernel and the file system of {directory}", remedy)
    )


def loop_devices(control: Path = Path("/dev/loop-control")) -> Feature:
    """Whether loop devices can be made, which images need where they do not mount from files."""
    name = "loop devices"
    try:
        os.close(os.open(control, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Feature(name, False, f"{control}: {error.strerror}", "`modprobe loop`; in a container pass the devices in")
    return Feature(name, True, str(control))


def fuse_device(device: Path = Path("/dev/fuse")) -> Feature:
    """Whether FUSE can be used."""
    name = "FUSE"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Feature(name, False, f"{device}: {error.strerror}", "`modprobe fuse`, as root; in a container pass /dev/fuse in")
    return Feature(name, True, str(device))


def fs_verity(directory: Path) -> Feature:
    """Whether files under `directory` can be sealed with fs-verity."""
    name = "fs-verity"
    remedy = "ext4 with `tune2fs -O verity`, or btrfs, on a kernel with CONFIG_FS_VERITY; without it objects are not sealed"
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            possible = files.can_have_verity(file.fileno())
    except OSError as error:
        return _not_asked(name, directory, error)
    return Feature(name, True, str(directory)) if possible else Feature(name, False, f"not on {directory}", remedy)


def reflinks(directory: Path) -> Feature:
    """Whether files under `directory` can share blocks; a container's first write to a large file then costs nothing."""
    name = "reflinks"
    remedy = "a store and a graph root on one XFS or btrfs copy no data when a container first writes to a file"
    try:
        with tempfile.TemporaryFile(dir=directory) as source, tempfile.TemporaryFile(dir=directory) as copy:
            source.write(bytes(4096))
            source.flush()
            files.reflink(source.fileno(), copy.fileno())
    except OSError as error:
        if refusal(error) in (Refusal.UNSUPPORTED, Refusal.INVALID):
            return Feature(name, False, f"not on {directory}", remedy)
        return _not_asked(name, directory, error)
    return Feature(name, True, str(directory))


def _not_asked(name: str, directory: Path, error: OSError) -> Feature:
    match refusal(error):
        case Refusal.NOT_PERMITTED:
            remedy = "run as root"
        case Refusal.MISSING:
            remedy = f"`mkdir -p {directory}`"
        case Refusal.UNKNOWN_FILE_SYSTEM:
            remedy = "`modprobe erofs`, or a kernel built with CONFIG_EROFS_FS"
        case _:
            remedy = ""
    return Feature(name, False, f"cannot be found out on {directory}: {error.strerror}", remedy)


def cgroup2(own_cgroups: str, mounts: Sequence[MountEntry]) -> Feature:
    """Whether containers can be given cgroups of version 2.

    :param own_cgroups: the text of /proc/self/cgroup.
    :param mounts: the mount table.
    """
    name = "cgroup2"
    remedy = 'without it podman needs cgroups="disabled" in containers.conf'
    root = Path("/sys/fs/cgroup")
    if not any(entry.target == root and entry.fstype == "cgroup2" for entry in mounts):
        return Feature(name, False, f"not what is mounted at {root}", remedy)
    own = next((line[3:] for line in own_cgroups.splitlines() if line.startswith("0::/")), None)
    if own is None:
        return Feature(name, False, "this process is in no cgroup of version 2", remedy)
    folder = root / own.lstrip("/")
    if not os.access(folder / "cgroup.procs", os.W_OK):
        return Feature(name, False, f"{folder} is not ours to write", remedy)
    controllers = folder / "cgroup.controllers"
    missing = {"memory", "pids"} - set(controllers.read_text().split() if controllers.is_file() else ())
    if missing:
        return Feature(name, False, f"{folder} lacks the controllers {', '.join(sorted(missing))}", remedy)
    return Feature(name, True, str(folder))
