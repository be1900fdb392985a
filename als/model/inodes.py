"""From an archive's entry to an inode that a kernel could hold, or a refusal."""

from __future__ import annotations

from als.errors import BadImage, LimitExceeded
from als.model.entry import Entry, EntryType
from als.model.limits import Limits
from als.model.paths import show
from als.model.tree import WHITEOUT, Content, FileType, Inode

XATTR_NAME_MAX = 255
"""include/uapi/linux/limits.h."""
SYMLINK_MODE = 0o777
"""Symlinks have no other, whatever their header says: there is no way to set one (symlink(7))."""
_IGNORED_XATTRS = frozenset({b"security.selinux"})
"""containers/storage never unpacks these (``xattrsToIgnore``): labels belong to the host, which mounts with ``context=``."""
_INVALID_ID = 0xFFFFFFFF
"""(uid_t)-1, which chown(2) takes for "leave as it is"."""

_FILE = FileType.FILE
_NO_DEVICE = (0, 0)
_FILE_TYPES = {
    EntryType.FILE: FileType.FILE,
    EntryType.DIR: FileType.DIR,
    EntryType.SYMLINK: FileType.SYMLINK,
    EntryType.CHAR: FileType.CHAR,
    EntryType.BLOCK: FileType.BLOCK,
    EntryType.FIFO: FileType.FIFO,
}


def make_inode(entry: Entry, limits: Limits, content: Content | None = None, data: bytes | None = None) -> Inode:
    """The inode that an entry other than a hardlink describes.

    A character device 0:0 is a whiteout, for that is what overlay would take it for.

    :raises BadImage: no kernel could hold such an inode.
    :raises LimitExceeded: a size or an xattr is over its limit.
    """
    path, entry_type, mode, uid, gid, mtime, mtime_ns, size, _, target, rdev, xattrs, _ = entry
    check_attributes(path, uid, gid, mtime, mtime_ns)
    kind = _FILE_TYPES[entry_type]
    mode &= 0o7777
    if kind is _FILE:
        if size < 0:
            raise BadImage("a file of negative size", where=show(path))
        if size > limits.file_bytes:
            raise LimitExceeded(f"a file of {size} bytes", where=show(path))
        if not size:
            content = data = None
        elif content is None and data is None:
            raise ValueError(f"no content given for {show(path)}")
        rdev, target = _NO_DEVICE, b""
    else:
        size, content, data = 0, None, None
        if kind is FileType.SYMLINK:
            mode, rdev = SYMLINK_MODE, _NO_DEVICE
            if not target or len(target) > limits.target_bytes or b"\0" in target:
                raise BadImage("a symlink that leads to no possible path", where=show(path))
        elif kind is FileType.CHAR or kind is FileType.BLOCK:
            target = b""
            if rdev == _NO_DEVICE and kind is FileType.CHAR:
                return WHITEOUT
            if not (0 <= rdev[0] < 1 << 12 and 0 <= rdev[1] < 1 << 20):
                raise BadImage(f"a device number that cannot be, {rdev[0]}:{rdev[1]}", where=show(path))
        else:
            rdev, target = _NO_DEVICE, b""
    if xattrs:
        xattrs = checked_xattrs(entry, limits)
    return Inode(kind, mode, uid, gid, mtime, mtime_ns, size, rdev, target, xattrs, content, data)


def check_attributes(path: bytes, uid: int, gid: int, mtime: int, mtime_ns: int) -> None:
    """Refuse what every type of inode has and no kernel could hold.

    :raises BadImage: the owner or the time cannot be.
    """
    if not (0 <= uid < _INVALID_ID and 0 <= gid < _INVALID_ID):
        raise BadImage(f"an owner that cannot exist, {uid}:{gid}", where=show(path))
    if not (-(1 << 63) <= mtime < 1 << 63 and 0 <= mtime_ns <= 999_999_999):
        raise BadImage("a time that cannot be", where=show(path))


def checked_xattrs(entry: Entry, limits: Limits) -> tuple[tuple[bytes, bytes], ...]:
    """An entry's xattrs as an inode has them: sorted, the last of equal names, without those that are the host's.

    :raises BadImage: a name is none.
    :raises LimitExceeded: a value, or all together, are over their limit.
    """
    kept = {name: value for name, value in entry.xattrs if name not in _IGNORED_XATTRS}
    for name, value in kept.items():
        if not name or b"\0" in name or len(name) > XATTR_NAME_MAX:
            raise BadImage("an xattr of no possible name", where=show(entry.path))
        if len(value) > limits.xattr_bytes:
            raise LimitExceeded(f"an xattr of {len(value)} bytes", where=show(entry.path))
    xattrs = tuple(sorted(kept.items()))
    check_xattrs_total(xattrs, limits, entry.path)
    return xattrs


def check_xattrs_total(xattrs: tuple[tuple[bytes, bytes], ...], limits: Limits, where: bytes) -> None:
    """Refuse more xattrs than one inode may have.

    :raises LimitExceeded: it has more.
    """
    total = sum(len(name) + len(value) for name, value in xattrs)
    if total > limits.xattrs_total_bytes:
        raise LimitExceeded(f"{total} bytes of xattrs", where=show(where))
