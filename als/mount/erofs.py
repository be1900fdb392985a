"""Mounting the EROFS images that als wrote itself.

Linux 6.12 and later mount EROFS straight from a regular file; before that, and where the image lies on a file system
whose files the kernel cannot read so (overlay), a loop device stands between. Which of the two works is found by doing
it: version numbers and build options say less than the kernel's own answer.

Each mount gets a superblock of its own, also for one image mounted twice. overlay needs that: it takes a directory only
once in a stack (else ELOOP).

Mounts are read-only, nodev, nosuid and noexec. That restricts only who looks into the mount directly, where the files
have no data anyway: what may be done through an overlay is decided by the overlay's own flags.

A sealed image is verified before it is mounted, and mounted by the very descriptor through which that was done, so that
nobody can put another one in its place in between. The kernel then knows no path of it (the mount table has
``/proc/self/fd/N``); it is recognised by the UUID that :mod:`als.erofs.writer` gave it, which statfs(2) tells.

A file-backed mount counts as one level of file system stacking in Linux 6.17 and 6.18.0 to 6.18.5. An overlay on an
overlay on it then fails with EINVAL there; who needs that asks for ``Backing.LOOP``.
"""

from __future__ import annotations

import enum
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from als.erofs.identity import read_uuid
from als.errors import KernelError, NotFound
from als.mount.table import MountEntry, find_mount
from als.mount.unmounting import unmounting
from als.native import loop
from als.native import mounts as native
from als.native.mounts import MountFlag
from als.native.refusal import Refusal, refusal
from als.verity.policy import Verify

FSTYPE = "erofs"
_DESCRIPTORS = "/proc/self/fd/"
_FLAGS = MountFlag.RDONLY | MountFlag.NODEV | MountFlag.NOSUID | MountFlag.NOEXEC


class Backing(enum.Enum):
    """What stands between the image file and the kernel's EROFS."""

    AUTO = "auto"
    FILE = "file"
    LOOP = "loop"


def mount_erofs(image: Path, target: Path, backing: Backing = Backing.AUTO, verify: Verify | None = None) -> Backing:
    """Mount an image file on the directory `target`.

    The image must be one that als wrote: the kernel trusts EROFS images.

    :param verify: asked before; the image, which must have a UUID, is then mounted by the descriptor that was given to it.
    :returns: how it was done, ``FILE`` or ``LOOP``.
    :raises NotFound: there is no such image file, or no such directory.
    :raises KernelError: the kernel cannot or may not.
    """
    source = image.resolve()
    for path, present in ((image, source.is_file()), (target, target.is_dir())):
        if not present:
            raise NotFound("no such image file" if path is image else "no such directory to mount on", where=str(path))
    with source.open("rb") as file:
        if verify is not None:
            verify(file.fileno())
        if backing is not Backing.LOOP:
            try:
                native.mount(source if verify is None else f"{_DESCRIPTORS}{file.fileno()}", target, FSTYPE, _FLAGS)
            except OSError as error:
                if backing is Backing.FILE or refusal(error) is not Refusal.NEEDS_BLOCK_DEVICE:
                    raise _mount_error(error, image) from error
            else:
                return Backing.FILE
        _mount_by_loop(file.fileno(), image, target)
        return Backing.LOOP


def _mount_by_loop(fd: int, image: Path, target: Path) -> None:
    try:
        # Past the page cache of the image: EROFS caches what it reads itself.
        device = loop.attach(fd, direct_io=True)
    except OSError as error:
        hint = "`modprobe loop` as root; in a container pass /dev/loop-control and the /dev/loop* devices"
        raise KernelError(f"no loop device: {error.strerror}", where=str(image), hint=hint) from error
    try:
        native.mount(device.path, target, FSTYPE, _FLAGS)
    except OSError as error:
        raise _mount_error(error, image) from error
    finally:
        device.close()


def _mount_error(error: OSError, image: Path) -> KernelError:
    hints = {
        Refusal.NOT_PERMITTED: "mounting needs CAP_SYS_ADMIN: run as root",
        Refusal.UNKNOWN_FILE_SYSTEM: "the kernel has no EROFS: `modprobe erofs`, or a kernel built with CONFIG_EROFS_FS",
        Refusal.NEEDS_BLOCK_DEVICE: "mounting from a file needs Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE",
        Refusal.INVALID: "the image is damaged, or of a newer EROFS than this kernel's; `dmesg` says more",
    }
    hint = hints.get(refusal(error), "`dmesg` may say more")
    return KernelError(f"cannot mount the EROFS image: {error.strerror}", where=str(image), hint=hint)


def shows_image(entry: MountEntry, image: Path) -> bool:
    """Whether a mount shows this image file.

    Behind a loop device the file is known by its inode, a sealed image by its UUID; of others that are mounted from files the
    kernel tells the path alone, so such an image must not be replaced under its name by one of its kind while it is mounted.

    :raises NotFound: the image file is gone.
    :raises StoreDamaged: it is none.
    :raises KernelError: the loop device cannot be asked.
    """
    if entry.fstype != FSTYPE:
        return False
    if entry.source.startswith(_DESCRIPTORS):
        return _mounted_uuid(entry.target) == _folded(read_uuid(image))
    if not entry.source.startswith("/dev/loop"):
        return entry.source == str(image.resolve())
    try:
        status = image.stat()
    except FileNotFoundError as error:
        raise NotFound("no such image file", where=str(image)) from error
    try:
        return loop.backing_file(entry.source) == (status.st_dev, status.st_ino)
    except OSError as error:
        raise KernelError(f"cannot ask the loop device: {error.strerror}", where=entry.source) from error


def _mounted_uuid(target: Path) -> int:
    """What statfs(2) tells of the UUID of the file system mounted there: its two halves in one."""
    return os.statvfs(target).f_fsid


def _folded(uuid: bytes) -> int:
    """The same of a UUID (kernel: include/linux/statfs.h, ``uuid_to_fsid``)."""
    return int.from_bytes(uuid[:8], "little") ^ int.from_bytes(uuid[8:], "little")


def ensure_mounted(
    image: Path,
    target: Path,
    backing: Backing = Backing.AUTO,
    mounts: Sequence[MountEntry] | None = None,
    verify: Verify | None = None,
) -> bool:
    """Mount `image` on `target` unless it is mounted there already.

    Two callers at once would both mount: hold the layer's lock.

    :param mounts: a table read before, for who checks many layers at once; by default it is read now.
    :param verify: as for :func:`mount_erofs`. What is mounted there and was not verified is covered: who uses it goes on.
    :returns: whether it was mounted only now.
    :raises NotFound: as :func:`mount_erofs`.
    :raises KernelError: as :func:`mount_erofs`, or something else is mounted there.
    """
    entry = find_mount(target, mounts)
    if entry is None or (verify is not None and entry.fstype == FSTYPE and not _shows_sealed(entry, image)):
        mount_erofs(image, target, backing, verify)
        return True
    if not shows_image(entry, image):
        what = f"{entry.source} ({entry.fstype}) is mounted there, not {image}"
        raise KernelError(what, where=str(target), hint=f"`umount {target}`")
    return False


def _shows_sealed(entry: MountEntry, image: Path) -> bool:
    """Whether a mount shows a sealed image, and not just what once had its name."""
    return entry.source.startswith((_DESCRIPTORS, "/dev/loop")) and shows_image(entry, image)


@contextmanager
def erofs_mounted(image: Path, target: Path, backing: Backing = Backing.AUTO) -> Iterator[Path]:
    """An image mounted for the length of a block.

    :raises KernelError: as :func:`mount_erofs`.
    """
    with unmounting(target):
        mount_erofs(image, target, backing)
        yield target


def can_mount_from_file(directory: Path) -> bool:
    """Whether this kernel mounts EROFS straight from files that lie on the file system of `directory`.

    Asks the kernel to mount a page of zeros: one that takes files complains about the content, one that does not
    complains about the file. The kernel's log gains a line.

    :raises OSError: the question could not be asked (permissions, no EROFS at all, a full or read-only directory).
    """
    with tempfile.TemporaryDirectory(prefix=".als-probe-", dir=directory) as scratch:
        image = Path(scratch).resolve() / "zeros"
        image.write_bytes(bytes(4096))
        with unmounting(Path(scratch)):
            try:
                native.mount(image, scratch, FSTYPE, _FLAGS)
            except OSError as error:
                match refusal(error):
                    case Refusal.INVALID:
                        return True
                    case Refusal.NEEDS_BLOCK_DEVICE:
                        return False
                    case _:
                        raise
            return True
