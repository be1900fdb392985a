"""What an image cannot hold is refused, by path, before a byte is written; and what it just can hold is not."""

from __future__ import annotations

import io

import pytest

from als.erofs.profile import COMPOSEFS_V0, LAYER, LAYER_BARE, Profile
from als.erofs.reader import read_image
from als.erofs.writer import write_image
from als.errors import Unsupported
from als.model.tree import WHITEOUT, Content, Directory, FileType, Inode, Node, Tree
from tests.erofs.trees import describe

FILE = Inode(FileType.FILE, 0o644)
CONTENT = Content.of_sha256(bytes(32))


def tree_with(node: Node, name: bytes = b"it") -> Tree:
    inner = Directory(Inode(FileType.DIR, 0o755), {name: node})
    return Tree(Directory(Inode(FileType.DIR, 0o755), {b"in": inner}))


def expect_refused(tree: Tree, where: str, profile: Profile = LAYER) -> None:
    out = io.BytesIO()
    with pytest.raises(Unsupported) as caught:
        write_image(tree, out, profile)
    assert caught.value.where == where
    assert not out.getvalue()


BAD_INODES = {
    "uid": Inode(FileType.FILE, 0o644, uid=1 << 32),
    "negative gid": Inode(FileType.FILE, 0o644, gid=-1),
    "mode": Inode(FileType.FILE, 0o10644),
    "mtime": Inode(FileType.FILE, 0o644, mtime=1 << 63),
    "nanoseconds": Inode(FileType.FILE, 0o644, mtime_ns=1_000_000_000),
    "size": Inode(FileType.FILE, 0o644, size=(1 << 43) + 1, content=CONTENT),
    "no content": Inode(FileType.FILE, 0o644, size=1),
    "content name": Inode(FileType.FILE, 0o644, size=1, content=Content(b"short", None)),
    "data": Inode(FileType.FILE, 0o644, size=2, data=b"x"),
    "no target": Inode(FileType.SYMLINK, 0o777),
    "target": Inode(FileType.SYMLINK, 0o777, target=b"t" * 4096),
    "target with NUL": Inode(FileType.SYMLINK, 0o777, target=b"t\0t"),
    "major": Inode(FileType.BLOCK, 0o644, rdev=(4096, 0)),
    "minor": Inode(FileType.CHAR, 0o644, rdev=(1, 1 << 20)),
    "whiteout in disguise": Inode(FileType.CHAR, 0o644, rdev=(0, 0)),
    "directory in disguise": Inode(FileType.DIR, 0o755),
    "xattr value": Inode(FileType.FILE, 0o644, xattrs=((b"user.x", bytes(65536)),)),
    "xattr name": Inode(FileType.FILE, 0o644, xattrs=((b"user." + b"x" * 251, b""),)),
    "xattr name, escaped": Inode(FileType.FILE, 0o644, xattrs=((b"trusted.overlay." + b"x" * 232, b""),)),
    "xattr name, empty": Inode(FileType.FILE, 0o644, xattrs=((b"user.", b""),)),
    "xattr name with NUL": Inode(FileType.FILE, 0o644, xattrs=((b"user.\0", b""),)),
    "xattr twice": Inode(FileType.FILE, 0o644, xattrs=((b"user.a", b"1"), (b"user.a", b"2"))),
    "xattrs": Inode(FileType.FILE, 0o644, xattrs=tuple((b"user.%04d" % number, b"") for number in range(4097))),
    "xattr bytes": Inode(FileType.FILE, 0o644, xattrs=tuple((b"user.%d" % number, bytes(60_000)) for number in range(3))),
}


@pytest.mark.parametrize("inode", BAD_INODES.values(), ids=BAD_INODES.keys())
def test_inodes(inode: Inode) -> None:
    expect_refused(tree_with(inode), "/in/it")


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b", b"n" * 256])
def test_names(name: bytes) -> None:
    expect_refused(tree_with(FILE, name), "/in/" + name.decode())


@pytest.mark.parametrize(("profile", "name"), [(LAYER, b".als"), (LAYER_BARE, b"ab"), (COMPOSEFS_V0, b"00")])
def test_names_that_the_forest_needs(profile: Profile, name: bytes) -> None:
    expect_refused(Tree(Directory(Inode(FileType.DIR, 0o755), {name: FILE})), f"/{name.decode()}", profile)
    write_image(tree_with(FILE, name), io.BytesIO(), profile)


def test_whole_images_have_no_whiteouts() -> None:
    expect_refused(tree_with(WHITEOUT), "/in/it", COMPOSEFS_V0)
    expect_refused(tree_with(Directory(Inode(FileType.DIR, 0o755), opaque=True)), "/in/it", COMPOSEFS_V0)


def test_a_directory_has_one_name() -> None:
    twice = Directory(Inode(FileType.DIR, 0o755))
    expect_refused(Tree(Directory(Inode(FileType.DIR, 0o755), {b"a": twice, b"b": twice})), "/a")
    loop = Directory(Inode(FileType.DIR, 0o755))
    loop.entries[b"loop"] = loop
    expect_refused(Tree(loop), "/")


def test_the_limits_themselves_are_held() -> None:
    inodes = [
        Inode(FileType.FILE, 0o7777, 0xFFFFFFFF, 0xFFFFFFFF, -(1 << 63), 999_999_999, 1 << 43, content=CONTENT),
        Inode(FileType.FILE, 0, mtime=(1 << 63) - 1, xattrs=((b"user." + b"x" * 250, bytes(65535)),)),
        Inode(FileType.FILE, 0, xattrs=tuple((b"user.%04d" % number, b"") for number in range(4096))),
        Inode(FileType.FILE, 0, xattrs=((b"lustre.lov", b"?"), (b"system.nfs4_acl", b"?"), (b"x", b"no prefix"))),
        Inode(FileType.SYMLINK, 0o777, target=b"t" * 4095),
        Inode(FileType.CHAR, 0o600, rdev=(4095, (1 << 20) - 1)),
        Inode(FileType.FILE, 0o600, size=100_000, data=b"0123456789" * 10_000),
    ]
    entries: dict[bytes, Node] = {b"%d" % number + b"n" * 254: inode for number, inode in enumerate(inodes)}
    tree = Tree(Directory(Inode(FileType.DIR, 0o755), entries))
    out = io.BytesIO()
    write_image(tree, out, LAYER)
    assert describe(read_image(out.getvalue(), LAYER)) == describe(tree)


def test_verity_digests_have_32_bytes() -> None:
    tree = tree_with(Inode(FileType.FILE, 0o644, size=1, content=CONTENT))
    with pytest.raises(ValueError, match="32 bytes"):
        write_image(tree, io.BytesIO(), LAYER, verity={CONTENT.name: b"short"})
