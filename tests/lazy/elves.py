"""ELF files made of nothing but what a loader looks at; caches of ldconfig's form; images of dictionaries and of folders."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from als.lazy.command import Command
from als.lazy.elf import Span
from als.lazy.prefetch import EntryFiles, Wish
from als.model.merged import Found, find_merged
from als.model.tree import Content, Directory, FileType, Inode, Node, Tree

X86_64 = 62
BASE = 0x400000
FOLDER = Inode(FileType.DIR, 0o755)


def elf(
    needed: Sequence[bytes] = (),
    interpreter: bytes = b"",
    *,
    soname: bytes = b"",
    rpath: bytes | None = None,
    runpath: bytes | None = None,
    flags_1: int = 0,
    bits: int = 64,
    order: str = "<",
    machine: int = X86_64,
    padding: int = 0,
) -> bytes:
    """A program or library; `padding` bytes lie between its header and what that leads to."""
    strings = bytearray(b"\0")
    tags: list[tuple[int, int]] = []

    def tag(number: int, text: bytes) -> None:
        tags.append((number, len(strings)))
        strings.extend(text + b"\0")

    for name in needed:
        tag(1, name)
    for number, text in ((14, soname or None), (15, rpath), (29, runpath)):
        if text is not None:
            tag(number, text)
    head, entry, dyn = (64, 56, f"{order}qQ") if bits == 64 else (52, 32, f"{order}iI")
    at = head + 3 * entry + padding
    loader = interpreter + b"\0"
    strings_at = at + len(loader)
    tags += [(5, BASE + strings_at), (10, len(strings)), (0x6FFFFFFB, flags_1), (0, 0)]
    dynamic = b"".join(struct.pack(dyn, *each) for each in tags)
    dynamic_at = strings_at + len(strings)
    end = dynamic_at + len(dynamic)
    segments = [(1, 0, end), (2, dynamic_at, len(dynamic)), (3 if interpreter else 0, at, len(loader))]
    form = f"{order}IIQQQQQQ" if bits == 64 else f"{order}IIIIIIII"
    phdrs = b"".join(
        struct.pack(form, kind, 4, offset, BASE + offset, 0, size, size, 1)
        if bits == 64
        else struct.pack(form, kind, offset, BASE + offset, 0, size, size, 4, 1)
        for kind, offset, size in segments
    )
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]).ljust(12, b"\0")
    word = "Q" if bits == 64 else "I"
    header = ident + struct.pack(f"{order}HHI3{word}IHHHHHH", 3, machine, 1, 0, head, 0, 0, head, entry, 3, 0, 0, 0)
    return header + phdrs + bytes(padding) + loader + bytes(strings) + dynamic


def ld_cache(entries: Sequence[tuple[bytes, bytes]], flags: int = 0x303, *, old: bool = False) -> bytes:
    """A cache that has each name at a path; ones in a glibc-hwcaps folder are marked as such."""
    table, strings = bytearray(), bytearray()
    start = 48 + 24 * len(entries)
    for name, path in entries:
        hwcap = 1 << 62 if b"/glibc-hwcaps/" in path else 0
        table += struct.pack("<iIIIQ", flags, start + len(strings), start + len(strings) + len(name) + 1, 0, hwcap)
        strings += name + b"\0" + path + b"\0"
    cache = struct.pack("<20sIIB19x", b"glibc-ld.so.cache1.1", len(entries), len(strings), 2) + table + strings
    if not old:
        return bytes(cache)
    before = struct.pack("<12sI", b"ld.so-1.7.0", 1) + bytes(12)
    return before + bytes(-len(before) % 8) + bytes(cache)


@dataclass
class MadeImage:
    """An image of dictionaries: a path's value is a file's bytes, or text for where a symlink leads. Lowest layer first.

    No two files are the same content, or one of them would not be asked for.
    """

    trees: Sequence[Tree]
    bytes_of: Mapping[bytes, bytes]

    def lookup(self, path: bytes) -> Found | None:
        return find_merged(self.trees, path)

    def read(self, file: Found, span: Span) -> bytes | None:
        assert isinstance(file.node, Inode)
        assert file.node.content is not None
        assert 0 <= span.offset < span.offset + span.length <= file.node.size
        return self.bytes_of[file.node.content.name][span.offset : span.offset + span.length]


def made(*layers: Mapping[str, bytes | str]) -> MadeImage:
    bytes_of: dict[bytes, bytes] = {}
    trees = []
    for layer in layers:
        root = Directory(FOLDER)
        for path, value in layer.items():
            *parents, name = path.encode().split(b"/")
            folder = root
            for parent in parents:
                child = folder.entries.setdefault(parent, Directory(FOLDER))
                assert isinstance(child, Directory)
                folder = child
            if isinstance(value, str):
                folder.entries[name] = Inode(FileType.SYMLINK, 0o777, target=value.encode())
            else:
                content = Content(sha256(path.encode() + value).digest(), None)
                bytes_of[content.name] = value
                folder.entries[name] = Inode(FileType.FILE, 0o755, size=len(value), content=content if value else None)
        trees.append(Tree(root))
    return MadeImage(trees, bytes_of)


class _Names(dict[bytes, Node]):
    """What a folder of this machine holds, looked up when it is asked for: a whole root would take half a minute to read."""

    def __init__(self, folder: bytes) -> None:
        super().__init__()
        self._folder = folder

    def get(self, name, default=None):
        path = self._folder + b"/" + name
        try:
            status = os.lstat(path)
        except OSError:
            return default
        if stat.S_ISDIR(status.st_mode):
            return Directory(FOLDER, _Names(path))
        if stat.S_ISLNK(status.st_mode):
            return Inode(FileType.SYMLINK, 0o777, target=os.fsencode(Path(os.fsdecode(path)).readlink()))
        if not stat.S_ISREG(status.st_mode):
            return default
        content = Content(sha256(b"%d.%d" % (status.st_dev, status.st_ino)).digest(), None) if status.st_size else None
        return Inode(FileType.FILE, stat.S_IMODE(status.st_mode), size=status.st_size, content=content)


@dataclass
class FolderImage:
    """A root file system on this machine as an image of one layer."""

    root: Path

    def lookup(self, path: bytes) -> Found | None:
        return find_merged([Tree(Directory(FOLDER, _Names(os.fsencode(self.root))))], path)

    def read(self, file: Found, span: Span) -> bytes | None:
        with (self.root / os.fsdecode(file.path)).open("rb") as opened:
            opened.seek(span.offset)
            return opened.read(span.length)


def command(*arguments: str, folder: bytes = b"/", library_path: bytes = b"", preload: Sequence[bytes] = ()) -> Command:
    words = tuple(each.encode() for each in arguments)
    return Command(words, (b"/usr/bin", b"/bin"), folder, library_path, tuple(preload))


def closure(image: MadeImage | FolderImage, what: Command, levels: tuple[bytes, ...] = ()) -> list[str]:
    """The files that are wanted whole, in order, where all bytes are here."""
    entry = EntryFiles(image.lookup, image.read, what, levels)
    wishes = entry.advance()
    assert entry.finished
    assert entry.advance() == []
    return whole(wishes)


def whole(wishes: Sequence[Wish]) -> list[str]:
    """The paths of those that are wanted whole."""
    found = []
    for wish in wishes:
        assert isinstance(wish.file.node, Inode)
        if wish.span == Span(0, wish.file.node.size):
            found.append(os.fsdecode(wish.file.path))
    return list(dict.fromkeys(found))
