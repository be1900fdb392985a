"""Mounts for tests, and what a mounted image looks like from outside."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from als.erofs.profile import Profile
from als.erofs.xattrs import escape
from als.model.tree import Directory, FileType, Inode, Tree, inode_of

_MS_RDONLY = 1
Seen = dict[bytes, tuple[object, ...]]


def _mount(source: str, target: Path, kind: str, options: str, *, flags: int = _MS_RDONLY) -> None:
    """mount(2): the command of the same name would put a loop device under a file even where the kernel needs none."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (source.encode(), os.fsencode(target), kind.encode(), flags, options.encode())
    if libc.mount(*arguments[:3], ctypes.c_ulong(arguments[3]), arguments[4]):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind} {options}: {os.strerror(number)}", str(target))


@contextlib.contextmanager
def mounted(image: Path, target: Path, *, loop: bool = False) -> Iterator[Path]:
    """An EROFS image mounted at `target`: from the file itself where the kernel can (6.12), or else by a loop device."""
    target.mkdir(exist_ok=True)
    if not loop:
        try:
            _mount(str(image), target, "erofs", "")
        except OSError as error:
            if error.errno != errno.ENOTBLK:
                raise
            loop = True
    if loop:
        subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", str(image), str(target)], check=True, timeout=30)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True, timeout=30)


@contextlib.contextmanager
def overlaid(lowers: Sequence[Path], target: Path, *, upper: Path | None = None) -> Iterator[Path]:
    """An overlay of `lowers`, the topmost first; read-only without an `upper`, a folder to keep changes in."""
    target.mkdir(exist_ok=True)
    options = f"metacopy=on,lowerdir={':'.join(map(str, lowers))}"
    if upper is not None:
        for folder in (upper / "diff", upper / "work"):
            folder.mkdir(parents=True)
        options += f",upperdir={upper}/diff,workdir={upper}/work"
    _mount("overlay", target, "overlay", options, flags=_MS_RDONLY if upper is None else 0)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True, timeout=30)


def seen(top: Path) -> Seen:
    """Every attribute of every name below `top`; hardlinks have the path of their first name in common."""
    result: Seen = {}
    first: dict[int, bytes] = {}
    base = os.fsencode(top)
    stack = [b""]
    while stack:
        path = stack.pop()
        full = base + b"/" + path if path else base
        status = os.lstat(full)
        kind = stat.S_IFMT(status.st_mode)
        size = status.st_size if kind in (stat.S_IFREG, stat.S_IFLNK) else 0
        rdev = (os.major(status.st_rdev), os.minor(status.st_rdev))
        owner = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
        target = os.fsencode(Path(os.fsdecode(full)).readlink()) if kind == stat.S_IFLNK else b""
        names = sorted(os.fsencode(name) for name in os.listxattr(full, follow_symlinks=False))
        # The kernel lets nobody read user.* of anything but files and directories.
        readable = kind in (stat.S_IFREG, stat.S_IFDIR)
        values = [os.getxattr(full, name, follow_symlinks=False) for name in names if readable or not name.startswith(b"user.")]
        group = path if kind == stat.S_IFDIR else first.setdefault(status.st_ino, path)
        if kind == stat.S_IFCHR and not status.st_rdev:
            result[path] = ("whiteout",)
        else:
            result[path] = (kind, owner, size, rdev, target, tuple(names), tuple(values), group, status.st_nlink)
        if kind == stat.S_IFDIR:
            children = sorted(os.listdir(full), reverse=True)
            stack.extend(path + b"/" + name if path else name for name in children)
    return result


def expected(tree: Tree, profile: Profile) -> Seen:
    """What `seen` has to find on the image of a layer, without overlay."""
    bits = {FileType.FILE: stat.S_IFREG, FileType.DIR: stat.S_IFDIR, FileType.SYMLINK: stat.S_IFLNK}
    bits |= {FileType.CHAR: stat.S_IFCHR, FileType.BLOCK: stat.S_IFBLK, FileType.FIFO: stat.S_IFIFO}
    counts = tree.link_counts()
    first: dict[Inode, bytes] = {}
    result: Seen = dict.fromkeys(profile.hidden, ("whiteout",))
    for path, node in tree.walk():
        inode = inode_of(node)
        if inode.type is FileType.WHITEOUT:
            result[path] = ("whiteout",)
            continue
        xattrs = {escape(name, profile.escaped): value for name, value in inode.xattrs}
        group, links = path, 2
        if isinstance(node, Directory):
            links += sum(isinstance(child, Directory) for child in node.entries.values())
            if node.opaque:
                xattrs[b"trusted.overlay.opaque"] = b"y"
        else:
            group, links = first.setdefault(inode, path), counts[inode]
            if inode.size and inode.data is None and inode.content is not None:
                xattrs[b"trusted.overlay.metacopy"] = b""
                xattrs[b"trusted.overlay.redirect"] = profile.redirect_to(inode.content.name)
        names = sorted(xattrs)
        readable = inode.type in (FileType.FILE, FileType.DIR)
        values = [xattrs[name] for name in names if readable or not name.startswith(b"user.")]
        owner = (inode.mode, inode.uid, inode.gid, inode.mtime * 1_000_000_000 + inode.mtime_ns)
        size = len(inode.target) if inode.type is FileType.SYMLINK else inode.size
        what = (bits[inode.type], owner, size, inode.rdev, inode.target)
        result[path] = (*what, tuple(names), tuple(values), group, links)
    return result


def inline_data(tree: Tree) -> dict[bytes, bytes]:
    """The bytes of each file that has them in the image, by path."""
    return {
        path: node.data for path, node in tree.walk() if isinstance(node, Inode) and node.data is not None and node.size > 0
    }
