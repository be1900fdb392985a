"""The builder beside a real kernel: the same entries unpacked, step by step as containers/storage does it, in a chroot."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from als.errors import BadImage
from als.model.builder import TreeBuilder
from als.model.entry import Entry, EntryType
from als.model.tree import Content, FileType, inode_of

pytestmark = pytest.mark.usefixtures("as_root")

Rows = dict[str, tuple[object, ...]]
TIMEOUT = 60.0

_names = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
_targets = st.sampled_from(["a", "b", "c", "../a", "../b/c", "/a", "/b/c", "a/../b", "c/a", ".", "..", "/"])
_types = st.sampled_from([EntryType.FILE, EntryType.DIR, EntryType.DIR, EntryType.SYMLINK, EntryType.HARDLINK, EntryType.FIFO])


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(_types)
    linkname = (
        draw(_targets if kind is EntryType.SYMLINK else _names) if kind in (EntryType.SYMLINK, EntryType.HARDLINK) else ""
    )
    with_xattrs = kind in (EntryType.FILE, EntryType.DIR)
    xattrs = draw(st.dictionaries(st.sampled_from([b"user.x", b"user.y"]), st.binary(max_size=3))) if with_xattrs else {}
    return Entry(
        draw(_names).encode(),
        kind,
        draw(st.sampled_from([0o600, 0o755, 0o4711])),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 3)),
        draw(st.integers(1, 9)),
        draw(st.integers(0, 9)),
        size=draw(st.integers(0, 2)) if kind is EntryType.FILE else 0,
        linkname=linkname.encode(),
        xattrs=tuple(xattrs.items()),
    )


def unpack(entry: Entry) -> None:
    """What ``Unpack`` and ``extractTarFileEntry`` of containers/storage do with an entry, in the current root."""
    path = Path("/", entry.path.decode())
    try:
        path.parent.lstat()
    except FileNotFoundError:
        path.parent.mkdir(0o755, parents=True)
    try:
        old: os.stat_result | None = path.lstat()
    except OSError:
        old = None
    if old is not None and not (stat.S_ISDIR(old.st_mode) and entry.type is EntryType.DIR):
        shutil.rmtree(path) if stat.S_ISDIR(old.st_mode) else path.unlink()
        old = None
    if entry.type is EntryType.DIR and old is None:
        path.mkdir()
    elif entry.type is EntryType.FILE:
        with path.open("xb") as file:
            file.write(bytes(entry.size))
    elif entry.type is EntryType.SYMLINK:
        path.symlink_to(entry.linkname.decode())
    elif entry.type is EntryType.HARDLINK:
        os.link("/" + entry.linkname.decode(), path, follow_symlinks=False)
    elif entry.type is EntryType.FIFO:
        os.mkfifo(path)
    os.lchown(path, entry.uid, entry.gid)
    if not path.is_symlink():
        path.chmod(entry.mode)
    if not (entry.type is EntryType.HARDLINK and path.is_symlink()):
        time = entry.mtime * 10**9 + entry.mtime_ns
        os.utime(path, ns=(time, time), follow_symlinks=False)
    for name, value in entry.xattrs:
        os.setxattr(path, name, value, follow_symlinks=False)


def found_on_disk() -> Rows:
    inodes: dict[str, int] = {}
    rows: Rows = {}
    for folder, directories, files in os.walk("/"):
        for name in [*directories, *files]:
            path = Path(folder, name)
            status = path.lstat()
            is_dir = stat.S_ISDIR(status.st_mode)
            special = not (is_dir or stat.S_ISREG(status.st_mode))
            xattrs = {} if special else {key: os.getxattr(path, key) for key in os.listxattr(path) if key.startswith("user.")}
            inodes[str(path)] = status.st_ino
            rows[str(path)] = (
                stat.S_IFMT(status.st_mode),
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                None if is_dir else status.st_mtime_ns,
                status.st_size if stat.S_ISREG(status.st_mode) else 0,
                str(path.readlink()) if stat.S_ISLNK(status.st_mode) else "",
                xattrs,
                is_dir,
            )
    return with_first_names(rows, inodes)


def with_first_names(rows: Rows, inodes: dict[str, int]) -> Rows:
    """Instead of whether it is a directory, the first name of each inode that is none: equal for hardlinks."""
    first: dict[int, str] = {}
    return {path: (*rows[path][:-1], None if rows[path][-1] else first.setdefault(inodes[path], path)) for path in sorted(rows)}


def child(root: str, chosen: list[Entry], out: Connection) -> None:
    os.umask(0o022)
    os.chroot(root)
    os.chdir("/")
    try:
        for entry in chosen:
            unpack(entry)
    except OSError as error:
        out.send(str(error))
    else:
        out.send(found_on_disk())


def on_disk(chosen: list[Entry], root: Path) -> Rows | str:
    """What the kernel makes of the entries; its message if it refuses one."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(str(root), chosen, theirs))
    process.start()
    theirs.close()
    assert ours.poll(TIMEOUT), "the unpacking process hangs"
    result: Rows | str = ours.recv()
    process.join(TIMEOUT)
    return result


_FORMAT_BITS = {
    FileType.FILE: stat.S_IFREG,
    FileType.DIR: stat.S_IFDIR,
    FileType.SYMLINK: stat.S_IFLNK,
    FileType.FIFO: stat.S_IFIFO,
}


def in_tree(chosen: list[Entry]) -> Rows:
    builder = TreeBuilder()
    for entry in chosen:
        builder.add(entry, Content.of_sha256(bytes(32)) if entry.size else None)
    nodes = {"/" + path.decode(): inode_of(node) for path, node in builder.finish().walk() if path}
    rows: Rows = {}
    for path, inode in nodes.items():
        is_dir = inode.type is FileType.DIR
        rows[path] = (
            _FORMAT_BITS[inode.type],
            inode.mode,
            inode.uid,
            inode.gid,
            None if is_dir else inode.mtime * 10**9 + inode.mtime_ns,
            inode.size,
            inode.target.decode(),
            {key.decode(): value for key, value in inode.xattrs},
            is_dir,
        )
    return with_first_names(rows, {path: id(inode) for path, inode in nodes.items()})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(entries(), max_size=9))
def test_the_tree_is_what_the_kernel_makes_of_it(tmp_path: Path, chosen: list[Entry]) -> None:
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    expected = on_disk(chosen, root)
    if isinstance(expected, str):
        with pytest.raises(BadImage):
            in_tree(chosen)
    else:
        assert in_tree(chosen) == expected
