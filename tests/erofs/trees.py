"""Trees for tests of the EROFS image: compared, generated, read from composefs' dumps and from the fixtures' truth."""

from __future__ import annotations

import random
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from als.erofs.layout import decode_rdev
from als.model.tree import WHITEOUT, Content, Directory, FileType, Inode, Node, Tree, inode_of

Description = dict[bytes, tuple[object, ...]]

_TYPES = {
    stat.S_IFREG: FileType.FILE,
    stat.S_IFDIR: FileType.DIR,
    stat.S_IFLNK: FileType.SYMLINK,
    stat.S_IFCHR: FileType.CHAR,
    stat.S_IFBLK: FileType.BLOCK,
    stat.S_IFIFO: FileType.FIFO,
}


def describe(tree: Tree) -> Description:
    """Everything a tree says, in a form that compares; hardlinks have the path of their first name in common."""
    first: dict[Inode, bytes] = {}
    result: Description = {}
    for path, node in tree.walk():
        inode = inode_of(node)
        if inode.type is FileType.WHITEOUT:
            result[path] = (FileType.WHITEOUT,)
            continue
        group = path if isinstance(node, Directory) else first.setdefault(inode, path)
        owner = (inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_ns)
        content = inode.content if inode.size and inode.data is None else None
        data = (inode.size, inode.rdev, inode.target, content, inode.data or None)
        opaque = isinstance(node, Directory) and node.opaque
        result[path] = (inode.type, *owner, *data, inode.xattrs, opaque, group)
    return result


def put(root: Directory, path: bytes, node: Node) -> None:
    """Set `path`, whose parents exist."""
    *parents, name = path.strip(b"/").split(b"/")
    directory = root
    for parent in parents:
        below = directory.entries[parent]
        assert isinstance(below, Directory)
        directory = below
    directory.entries[name] = node


def unescape(text: str) -> bytes:
    """Undo composefs-dump(5)'s escapes."""
    plain = {"\\\\": b"\\", "\\n": b"\n", "\\r": b"\r", "\\t": b"\t"}
    parts = re.findall(r"\\x[0-9a-f]{2}|\\.|[^\\]+", text)
    return b"".join(plain.get(part) or (bytes.fromhex(part[2:]) if part[:2] == "\\x" else part.encode()) for part in parts)


def parse_dump(text: str) -> tuple[Tree, dict[bytes, bytes]]:
    """The tree of a composefs dump, and the fs-verity digests by content name."""
    root: Directory | None = None
    verity: dict[bytes, bytes] = {}
    links: list[tuple[bytes, bytes]] = []
    for line in text.splitlines():
        path_text, size, mode_text, _links, uid, gid, rdev, mtime, payload, data, digest, *xattrs = line.split(" ")
        path = unescape(path_text)
        if mode_text.startswith("@"):
            links.append((path, unescape(payload)))
            continue
        mode = int(mode_text, 8)
        kind = _TYPES[stat.S_IFMT(mode)]
        seconds, _, nanoseconds = mtime.partition(".")
        content = None
        if kind is FileType.FILE and payload != "-":
            content = Content(bytes.fromhex(payload.replace("/", "")), None)
            if digest != "-":
                verity[content.name] = bytes.fromhex(digest)
        inode = Inode(
            kind,
            stat.S_IMODE(mode),
            int(uid),
            int(gid),
            int(seconds),
            int(nanoseconds),
            int(size) if kind is FileType.FILE else 0,
            decode_rdev(int(rdev)) if kind in (FileType.CHAR, FileType.BLOCK) else (0, 0),
            unescape(payload) if kind is FileType.SYMLINK else b"",
            tuple(sorted((unescape(name), unescape(value)) for name, _, value in (xattr.partition("=") for xattr in xattrs))),
            content,
            None if data == "-" else unescape(data),
        )
        node = Directory(inode) if kind is FileType.DIR else inode
        if root is None:
            assert isinstance(node, Directory)
            root = node
        else:
            put(root, path, node)
    assert root is not None
    for path, target in links:
        node_found = Tree(root).find(target)
        assert node_found is not None
        put(root, path, node_found)
    return Tree(root), verity


def from_truth(entries: Iterable[Mapping[str, Any]], *, inline: Mapping[str, bytes] | None = None) -> Tree:
    """The tree that the fixtures' truth states, of a layer or merged. Contents are named by their sha256."""
    root = Directory(Inode(FileType.DIR, 0o755))
    groups: dict[str, Inode] = {}
    opaque: list[bytes] = []
    ordered = sorted(entries, key=lambda entry: (entry["type"] == "hardlink", len(entry["path"]), entry["path"]))
    for entry in ordered:
        path = str(entry["path"]).encode()
        if entry.get("implicit"):
            _put_with_parents(root, path, Directory(Inode(FileType.DIR, 0o755)))
            continue
        if entry.get("whiteout") == "opaque":
            opaque.append(str(entry["whiteout_target"]).encode())
            continue
        if entry.get("whiteout"):
            path = str(entry["whiteout_target"]).encode()
            _put_with_parents(root, path, WHITEOUT)
            continue
        group = entry.get("hardlink_group")
        if group in groups:
            _put_with_parents(root, path, groups[group])
            continue
        inode = _truth_inode(entry, inline or {})
        if group:
            groups[group] = inode
        if path == b"/":
            root.inode = inode
        else:
            _put_with_parents(root, path, Directory(inode) if inode.type is FileType.DIR else inode)
    tree = Tree(root)
    for path in opaque:
        directory = tree.find(path)
        assert isinstance(directory, Directory)
        directory.opaque = True
    return tree


def _truth_inode(entry: Mapping[str, Any], inline: Mapping[str, bytes]) -> Inode:
    kind = FileType(entry["type"])
    size = int(entry["size"]) if kind is FileType.FILE else 0
    xattrs = {name.encode(): bytes.fromhex(value) for name, value in entry.get("xattrs_hex", {}).items()}
    major, minor = entry.get("rdev", (0, 0))
    return Inode(
        kind,
        int(entry["mode"], 8),
        entry["uid"],
        entry["gid"],
        entry["mtime"][0],
        entry["mtime"][1],
        size,
        (major, minor),
        str(entry.get("linkname", "")).encode() if kind is FileType.SYMLINK else b"",
        tuple(sorted(xattrs.items())),
        Content.of_sha256(bytes.fromhex(entry["sha256"])) if size else None,
        inline.get(entry["path"]),
    )


def _put_with_parents(root: Directory, path: bytes, node: Node) -> None:
    names = path.strip(b"/").split(b"/")
    directory = root
    for name in names[:-1]:
        below = directory.entries.setdefault(name, Directory(Inode(FileType.DIR, 0o755)))
        assert isinstance(below, Directory)
        directory = below
    directory.entries[names[-1]] = node


_KNOWN_XATTRS = """user.a trusted.t security.selinux security.x trusted.overlay.opaque trusted.overlay.metacopy
    trusted.overlay.overlay.x user.overlay.redirect user.overlay.overlay.y"""
XATTR_NAMES = st.one_of(
    st.sampled_from(_KNOWN_XATTRS.encode().split()),
    st.binary(min_size=1, max_size=60).filter(lambda name: 0 not in name).map(lambda name: b"user." + name),
)
NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"bin", b"usr", b"!", b"-", b"...", b".x", b"z" * 255, "ö".encode(), b"with space\n="]),
    st.binary(min_size=1, max_size=40).filter(lambda name: not {0, 0x2F} & set(name) and name not in (b".", b"..")),
)
MTIMES = st.one_of(st.sampled_from([0, 1, 1700000000, -1, -(1 << 40), 1 << 40]), st.integers(-(1 << 33), 1 << 33))
IDS = st.one_of(st.sampled_from([0, 1000, 65535, 65536, 0xFFFFFFFE]), st.integers(0, 0xFFFFFFFE))


@st.composite
def inodes(draw: st.DrawFn, *, kinds: Iterable[FileType], sizes: st.SearchStrategy[int]) -> Inode:
    """An inode of one of these types."""
    kind = draw(st.sampled_from(list(kinds)))
    if kind is FileType.WHITEOUT:
        return WHITEOUT
    size, content, data = 0, None, None
    if kind is FileType.FILE:
        size = draw(sizes)
        inline = draw(st.booleans())
        if inline and size <= 4096:
            data = random.Random(size).randbytes(size)
        elif size:
            content = Content.of_sha256(draw(st.sampled_from([bytes(32), b"\xff" * 32]) | st.binary(min_size=32, max_size=32)))
    devices = kind in (FileType.CHAR, FileType.BLOCK)
    target = st.one_of(st.binary(min_size=1, max_size=80), st.just(b"t" * 4095)).map(lambda text: text.replace(b"\0", b"n"))
    return Inode(
        kind,
        draw(st.integers(0, 0o7777)),
        draw(IDS),
        draw(IDS),
        draw(MTIMES),
        draw(st.sampled_from([0, 1, 999_999_999])),
        size,
        (draw(st.integers(1, 4095)), draw(st.integers(0, (1 << 20) - 1))) if devices else (0, 0),
        draw(target) if kind is FileType.SYMLINK else b"",
        tuple(sorted(draw(st.dictionaries(XATTR_NAMES, st.binary(max_size=300), max_size=4)).items())),
        content,
        data if size else None,
    )


SIZES = st.one_of(st.integers(0, 100), st.sampled_from([2048, 2049, 4095, 4096, 4097, 65536, 1 << 32, 1 << 40]))


@st.composite
def trees(
    draw: st.DrawFn,
    *,
    layer: bool,
    entries: int = 20,
    sizes: st.SearchStrategy[int] = SIZES,
    reserved: re.Pattern[bytes] = re.compile(rb"[0-9a-f]{2}|\.als"),
) -> Tree:
    """A tree with hardlinks; as a `layer` with whiteouts and opaque directories too. No root entry matches `reserved`."""
    kinds = [kind for kind in FileType if kind is not FileType.DIR and (layer or kind is not FileType.WHITEOUT)]
    leaves = inodes(kinds=kinds, sizes=sizes)
    folders = inodes(kinds=[FileType.DIR], sizes=sizes)
    directories = [Directory(draw(folders), opaque=layer and draw(st.booleans()))]
    linkable: list[Inode] = []
    for _ in range(draw(st.integers(0, entries))):
        parent = directories[draw(st.integers(0, len(directories) - 1))]
        name = draw(NAMES)
        if name in parent.entries or (parent is directories[0] and reserved.fullmatch(name)):
            continue
        choice = draw(st.integers(0, 9))
        if choice < 3:
            directories.append(Directory(draw(folders), opaque=layer and draw(st.booleans())))
            parent.entries[name] = directories[-1]
        elif choice == 9 and linkable:
            parent.entries[name] = draw(st.sampled_from(linkable))
        else:
            inode = draw(leaves)
            parent.entries[name] = inode
            linkable.append(inode)
    return Tree(directories[0])


def crowded(seed: int, *, files: int, directories: int = 12) -> Tree:
    """A tree large enough for inodes and directories to meet many borders of blocks; the same for the same seed."""
    chance = random.Random(seed)
    folders = [Directory(Inode(FileType.DIR, 0o755, mtime=5))]
    for number in range(directories):
        folder = Directory(Inode(FileType.DIR, 0o700, mtime=chance.choice([5, 6])))
        chance.choice(folders).entries[b"dir%d" % number] = folder
        folders.append(folder)
    labels = [(b"security.selinux", b"label-%d" % number * number) for number in range(1, 6)]
    for number in range(files):
        own = (b"user.%d" % chance.randrange(3), chance.randbytes(chance.randrange(200)))
        xattrs = (chance.choice(labels), own)
        owner = (chance.choice([0, 0, 70000]), 0, chance.choice([5, 5, 99]), chance.choice([0, 0, 7]))
        kind = chance.choice([FileType.FILE, FileType.FILE, FileType.FILE, FileType.SYMLINK])
        if kind is FileType.SYMLINK:
            inode = Inode(kind, 0o777, *owner, target=b"t" * chance.choice([1, 30, 1000, 4000]), xattrs=xattrs)
        elif chance.random() < 0.5:
            data = chance.randbytes(chance.choice([1, 60, 700, 2048, 3000, 4096]))
            inode = Inode(kind, 0o644, *owner, size=len(data), data=data, xattrs=xattrs)
        else:
            content = Content.of_sha256(bytes([chance.randrange(40)]) * 32)
            inode = Inode(kind, 0o644, *owner, size=chance.randrange(1, 1 << 34), content=content, xattrs=xattrs)
        chance.choice(folders).entries[b"%d-%s" % (number, b"n" * chance.randrange(100))] = inode
    return Tree(folders[0])
