"""What archive entries mean once they are together."""

from __future__ import annotations

import itertools

import pytest

from als.errors import BadImage, LimitExceeded
from als.model.builder import TreeBuilder
from als.model.entry import Entry, EntryType
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.tree import WHITEOUT, Content, Directory, FileType, Inode, Tree, inode_of

CAPABILITY = (b"security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))


def file(
    path: bytes, content: bytes = b"x" * 32, mode: int = 0o644, xattrs: tuple[tuple[bytes, bytes], ...] = ()
) -> tuple[Entry, Content]:
    return Entry(path, EntryType.FILE, mode, size=5, xattrs=xattrs), Content.of_sha256(content)


def directory(path: bytes, mode: int = 0o755, uid: int = 0, xattrs: tuple[tuple[bytes, bytes], ...] = ()) -> Entry:
    return Entry(path, EntryType.DIR, mode, uid=uid, mtime=7, xattrs=xattrs)


def symlink(path: bytes, target: bytes) -> Entry:
    return Entry(path, EntryType.SYMLINK, 0o777, linkname=target)


def hardlink(path: bytes, target: bytes, mode: int = 0o644, xattrs: tuple[tuple[bytes, bytes], ...] = ()) -> Entry:
    return Entry(path, EntryType.HARDLINK, mode, linkname=target, xattrs=xattrs)


def empty(path: bytes) -> Entry:
    return Entry(path, EntryType.FILE)


def build(*entries: Entry | tuple[Entry, Content], limits: Limits = DEFAULT_LIMITS) -> Tree:
    builder = TreeBuilder(limits)
    for each in entries:
        if isinstance(each, Entry):
            builder.add(each)
        else:
            builder.add(*each)
    return builder.finish()


def paths(tree: Tree) -> list[bytes]:
    return [path for path, _ in tree.walk()]


def dir_at(tree: Tree, path: bytes) -> Directory:
    node = tree.find(path)
    assert isinstance(node, Directory)
    return node


def inode_at(tree: Tree, path: bytes) -> Inode:
    node = tree.find(path)
    assert node is not None
    return inode_of(node)


class TestNames:
    @pytest.mark.parametrize("spelling", [b"a/b", b"./a/b", b"/a/b", b"//a///b/", b"a/x/../b", b"/../a/b", b"a/./b/."])
    def test_spellings_of_one_path(self, spelling: bytes) -> None:
        assert paths(build(empty(spelling))) == [b"", b"a", b"a/b"]

    @pytest.mark.parametrize("name", [b"..", b"../x", b"a/../../x", b"./../x", b"", b"a\0b", b"a/\0/b"])
    def test_names_that_are_none_are_refused(self, name: bytes) -> None:
        with pytest.raises(BadImage):
            build(empty(name))

    @pytest.mark.parametrize("name", [b"n" * 256, b"n" * 256 + b"/x", b"/".join([b"d"] * 4097), b"a/" * 33000])
    def test_names_over_the_limits(self, name: bytes) -> None:
        with pytest.raises(LimitExceeded):
            build(empty(name))

    def test_the_longest_name(self) -> None:
        assert paths(build(empty(b"n" * 255))) == [b"", b"n" * 255]

    def test_implied_parents_and_root(self) -> None:
        tree = build(empty(b"a/b/c"))
        for path in (b"", b"a", b"a/b"):
            inode = inode_at(tree, path)
            assert (inode.type, inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_ns) == (
                FileType.DIR,
                0o755,
                0,
                0,
                0,
                0,
            )

    @pytest.mark.parametrize("root", [b"./", b"/", b".", b"a/.."])
    def test_the_root_has_attributes(self, root: bytes) -> None:
        assert inode_at(build(directory(root, 0o700, uid=3)), b"").mode == 0o700

    def test_a_root_that_is_no_directory(self) -> None:
        with pytest.raises(BadImage):
            build(symlink(b"./", b"x"))

    def test_implied_directories_count_as_entries(self) -> None:
        limits = Limits(entries=5)
        build(empty(b"a/b/c/d/e"), limits=limits)
        with pytest.raises(LimitExceeded):
            build(empty(b"a/b/c/d/e/f"), limits=limits)


class TestSymlinksOnTheWay:
    @pytest.mark.parametrize("target", [b"usr/lib", b"/usr/lib", b"../../usr/lib", b"./usr/../usr//lib/"])
    def test_followed_within_the_layer(self, target: bytes) -> None:
        tree = build(directory(b"usr/lib"), symlink(b"lib", target), empty(b"lib/x"), empty(b"lib/new/y"))
        assert paths(tree) == [b"", b"lib", b"usr", b"usr/lib", b"usr/lib/new", b"usr/lib/new/y", b"usr/lib/x"]

    def test_the_last_name_is_not_followed(self) -> None:
        tree = build(directory(b"d"), symlink(b"s", b"d"), empty(b"s"))
        assert inode_at(tree, b"s").type is FileType.FILE

    @pytest.mark.parametrize("entries", [(symlink(b"s", b"s"),), (symlink(b"s", b"t"), symlink(b"t", b"/s"))])
    def test_loops(self, entries: tuple[Entry, ...]) -> None:
        with pytest.raises(BadImage, match="symlinks"):
            build(*entries, empty(b"s/x"))

    @pytest.mark.parametrize("entry", [symlink(b"p", b"missing/dir"), empty(b"p"), Entry(b"p", EntryType.CHAR)])
    def test_nothing_lies_below_what_is_no_directory(self, entry: Entry) -> None:
        with pytest.raises(BadImage, match="not a directory"):
            build(entry, empty(b"p/x"))

    def test_forty_are_followed_and_no_more(self) -> None:
        chain = [directory(b"s0"), *(symlink(b"s%d" % n, b"s%d" % (n - 1)) for n in range(1, 42))]
        assert b"s0/x" in paths(build(*chain, empty(b"s40/x")))
        with pytest.raises(BadImage):
            build(*chain, empty(b"s41/x"))

    def test_no_detour_is_longer_than_the_deepest_path(self) -> None:
        with pytest.raises(LimitExceeded):
            build(directory(b"d/d"), symlink(b"s", b"d/../" * 20), empty(b"s/x"), limits=Limits(depth=30))

    @pytest.mark.parametrize("path", [b"s/s", b"d/up/d"])
    def test_nothing_replaces_its_own_way(self, path: bytes) -> None:
        with pytest.raises(BadImage, match="own path"):
            build(symlink(b"s", b"."), symlink(b"d/up", b".."), empty(path))

    def test_a_replaced_symlink_leads_elsewhere(self) -> None:
        tree = build(directory(b"a"), directory(b"b"), symlink(b"s", b"a"), empty(b"s/x"), symlink(b"s", b"b"), empty(b"s/y"))
        assert paths(tree) == [b"", b"a", b"a/x", b"b", b"b/y", b"s"]


class TestRepetition:
    def test_the_last_wins(self) -> None:
        tree = build(file(b"x", b"1" * 32), file(b"./x", b"2" * 32))
        assert inode_at(tree, b"x").content == Content.of_sha256(b"2" * 32)

    def test_a_directory_keeps_what_is_in_it(self) -> None:
        tree = build(
            directory(b"d", 0o700, xattrs=((b"user.a", b"1"), (b"user.b", b"1"))),
            empty(b"d/x"),
            directory(b"d/", 0o711, uid=5),
            directory(b"d", 0o711, uid=5, xattrs=((b"user.c", b""), (b"user.b", b"2"))),
        )
        inode = inode_at(tree, b"d")
        assert (inode.mode, inode.uid, inode.mtime) == (0o711, 5, 7)
        assert inode.xattrs == ((b"user.a", b"1"), (b"user.b", b"2"), (b"user.c", b""))
        assert paths(tree) == [b"", b"d", b"d/x"]

    def test_anything_else_replaces_a_directory(self) -> None:
        tree = build(empty(b"d/e/x"), empty(b"d"))
        assert paths(tree) == [b"", b"d"]
        again = build(empty(b"d/e/x"), empty(b"d"), directory(b"d"), empty(b"d/e/y"))
        assert paths(again) == [b"", b"d", b"d/e", b"d/e/y"]

    def test_a_directory_replaces_anything_else(self) -> None:
        assert paths(build(symlink(b"d", b"e"), directory(b"d"), empty(b"d/x"))) == [b"", b"d", b"d/x"]


class TestHardlinks:
    def test_share_the_inode_with_the_last_header_s_attributes(self) -> None:
        entry, content = file(b"a", mode=0o600)
        links = [
            hardlink(b"d/b", b"./a", 0o644)._replace(mtime=9, mtime_ns=1, uid=1),
            hardlink(b"c", b"/d/../d/b", 0o4755)._replace(mtime=10, gid=2, xattrs=((b"user.x", b"1"),)),
        ]
        tree = build((entry, content), *links)
        inode = inode_at(tree, b"a")
        assert inode is tree.find(b"d/b") is tree.find(b"c")
        assert (inode.mode, inode.uid, inode.gid, inode.mtime, inode.mtime_ns) == (0o4755, 0, 2, 10, 0)
        assert (inode.size, inode.content, inode.xattrs) == (5, content, ((b"user.x", b"1"),))
        assert tree.link_counts() == {inode: 3}

    def test_a_replaced_name_leaves_the_group(self) -> None:
        tree = build(file(b"a"), hardlink(b"b", b"a"), hardlink(b"c", b"a", 0o700), empty(b"a"))
        assert inode_at(tree, b"a").mode == 0o644
        assert inode_at(tree, b"a").size == 0
        assert tree.find(b"b") is tree.find(b"c") is not tree.find(b"a")
        assert inode_at(tree, b"b").mode == 0o700

    def test_a_capability_survives_only_if_repeated(self) -> None:
        entry, content = file(b"a", xattrs=(CAPABILITY, (b"user.k", b"v")))
        lost = build((entry, content), hardlink(b"b", b"a", xattrs=(CAPABILITY,)), hardlink(b"c", b"a"))
        assert inode_at(lost, b"a").xattrs == ((b"user.k", b"v"),)
        kept = build((entry, content), hardlink(b"b", b"a"), hardlink(b"c", b"a", xattrs=(CAPABILITY,)))
        assert inode_at(kept, b"a").xattrs == (CAPABILITY, (b"user.k", b"v"))

    def test_of_a_symlink_the_symlink_itself(self) -> None:
        tree = build(empty(b"t"), symlink(b"s", b"t"), hardlink(b"h", b"s", 0o600)._replace(uid=4))
        inode = inode_at(tree, b"h")
        assert inode is tree.find(b"s")
        assert (inode.type, inode.mode, inode.uid, inode.target) == (FileType.SYMLINK, 0o777, 4, b"t")

    def test_through_a_symlink_on_the_way(self) -> None:
        tree = build(empty(b"d/x"), symlink(b"s", b"d"), hardlink(b"h", b"s/x"))
        assert tree.find(b"h") is tree.find(b"d/x")

    @pytest.mark.parametrize("target", [b"missing", b"h", b"../x", b"d", b"", b"x/y", b"gone/x"])
    def test_targets_that_cannot_be(self, target: bytes) -> None:
        with pytest.raises(BadImage):
            build(directory(b"d"), empty(b"x"), hardlink(b"h", target))

    def test_to_itself(self) -> None:
        with pytest.raises(BadImage):
            build(file(b"a"), hardlink(b"./a", b"a"))

    def test_many_cost_no_more_than_as_many_files(self) -> None:
        links = [hardlink(b"l%d" % n, b"a", n % 0o777, xattrs=((b"user.%d" % (n % 2000), b""),)) for n in range(20_000)]
        tree = build(file(b"a"), *links)
        assert list(tree.link_counts().values()) == [20_001]
        assert len(inode_at(tree, b"l7").xattrs) == 2000


class TestWhiteouts:
    def test_become_entries(self) -> None:
        tree = build(empty(b"d/.wh.gone"))
        assert tree.find(b"d/gone") is WHITEOUT
        assert paths(tree) == [b"", b"d", b"d/gone"]

    def test_a_device_of_overlay_is_one(self) -> None:
        assert build(Entry(b"x", EntryType.CHAR, 0o600)).find(b"x") is WHITEOUT
        assert inode_at(build(Entry(b"x", EntryType.BLOCK, 0o600)), b"x").type is FileType.BLOCK

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_the_layer_s_own_entries_survive_in_any_order(self, order: tuple[int, ...]) -> None:
        entries = [empty(b".wh.d"), empty(b"d/x"), empty(b"d/.wh.x")]
        tree = build(*(entries[n] for n in order))
        assert paths(tree) == [b"", b"d", b"d/x"]
        assert dir_at(tree, b"d").opaque
        assert inode_at(tree, b"d/x").type is FileType.FILE

    @pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
    def test_below_a_whiteout_there_is_nothing_left_to_hide(self, order: tuple[int, ...]) -> None:
        entries = [empty(b".wh.d"), empty(b"d/.wh.x")]
        assert paths(build(*(entries[n] for n in order))) == [b"", b"d"]

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_opaque_in_any_order(self, order: tuple[int, ...]) -> None:
        entries = [directory(b"a/d", 0o700), empty(b"a/d/.wh..wh..opq"), empty(b"a/d/x")]
        tree = build(*(entries[n] for n in order))
        assert dir_at(tree, b"a/d").opaque
        assert not dir_at(tree, b"a").opaque
        assert inode_at(tree, b"a/d").mode == 0o700
        assert paths(tree) == [b"", b"a", b"a/d", b"a/d/x"]

    def test_an_opaque_root(self) -> None:
        assert build(empty(b"./.wh..wh..opq")).root.opaque

    @pytest.mark.parametrize(
        "name", [b".wh..wh.plnk/", b".wh..wh.aufs", b".wh..wh.plnk/1.2", b".wh..wh.orph/.wh.x", b"d/.wh..wh.x"]
    )
    def test_bookkeeping_of_aufs_is_skipped(self, name: bytes) -> None:
        assert paths(build(directory(b"d"), empty(name))) == [b"", b"d"]

    @pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"d/.wh./", b".wh.d/x", b".wh." + b"n" * 256, b"../.wh.x"])
    def test_whiteouts_of_nothing_are_refused(self, name: bytes) -> None:
        with pytest.raises(BadImage):
            build(empty(name))

    def test_a_whiteout_below_a_file_hides_nothing(self) -> None:
        assert paths(build(empty(b"f"), empty(b"f/.wh.x"))) == [b"", b"f"]


class TestAttributes:
    @pytest.mark.parametrize(
        "entry",
        [
            Entry(b"x", EntryType.FILE, uid=-1),
            Entry(b"x", EntryType.FILE, gid=1 << 32),
            Entry(b"x", EntryType.DIR, uid=0xFFFFFFFF),
            Entry(b"x", EntryType.FILE, mtime=1 << 63),
            Entry(b"x", EntryType.FILE, mtime_ns=1_000_000_000),
            Entry(b"x", EntryType.FILE, size=-1),
            Entry(b"x", EntryType.FILE, size=1 << 41),
            Entry(b"x", EntryType.CHAR, rdev=(1 << 12, 0)),
            Entry(b"x", EntryType.BLOCK, rdev=(0, 1 << 20)),
            Entry(b"x", EntryType.BLOCK, rdev=(-1, 0)),
            Entry(b"x", EntryType.SYMLINK),
            Entry(b"x", EntryType.SYMLINK, linkname=b"a\0b"),
            Entry(b"x", EntryType.SYMLINK, linkname=b"t" * 4096),
            Entry(b"x", EntryType.FILE, xattrs=((b"", b""),)),
            Entry(b"x", EntryType.FILE, xattrs=((b"user." + b"n" * 251, b""),)),
            Entry(b"x", EntryType.FILE, xattrs=((b"user.a\0", b""),)),
            Entry(b"x", EntryType.FILE, xattrs=((b"user.a", bytes((1 << 16) + 1)),)),
            Entry(b"x", EntryType.FILE, xattrs=tuple((b"user.%d" % n, bytes(1 << 16)) for n in range(3))),
        ],
    )
    def test_what_no_kernel_could_hold_is_refused(self, entry: Entry) -> None:
        with pytest.raises(BadImage):
            build(entry)

    def test_xattrs_collected_over_headers_have_a_limit_too(self) -> None:
        headers = [directory(b"d", xattrs=((b"user.%d" % n, bytes(1 << 16)),)) for n in range(3)]
        with pytest.raises(LimitExceeded):
            build(*headers)

    def test_modes_and_xattrs_are_put_in_order(self) -> None:
        xattrs = ((b"user.b", b"\0\xff\n"), (b"security.selinux", b"label"), (b"user.a", b""))
        inode = inode_at(build(Entry(b"x", EntryType.FIFO, 0o117777, xattrs=xattrs)), b"x")
        assert inode.mode == 0o7777
        assert inode.xattrs == ((b"user.a", b""), (b"user.b", b"\0\xff\n"))

    def test_times_before_the_epoch_and_far_ahead(self) -> None:
        for mtime in (-(1 << 40), -1, 1 << 40):
            assert inode_at(build(Entry(b"x", EntryType.FILE, mtime=mtime)), b"x").mtime == mtime

    def test_bytes_at_hand_are_kept(self) -> None:
        builder = TreeBuilder()
        builder.add(Entry(b"x", EntryType.FILE, size=3), Content.of_sha256(b"1" * 32), b"abc")
        builder.add(Entry(b"y", EntryType.FILE, size=3), data=b"abd")
        tree = builder.finish()
        assert (inode_at(tree, b"x").data, inode_at(tree, b"y").content) == (b"abc", None)

    def test_a_file_without_content_is_a_mistake_of_the_caller(self) -> None:
        with pytest.raises(ValueError, match="no content"):
            build(Entry(b"x", EntryType.FILE, size=3))
