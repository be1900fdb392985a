"""Names as an index gives them, beside the tree that is made of the same index."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from als.formats.lazy import tree_of
from als.lazy.names import IndexNames
from als.model.tree import Directory, Inode, Node, Tree
from tests.formats.test_formats_lazy import fixture_layers
from tests.formats.tocbuilder import Source, file, folder, info, zstd_podman
from tests.lazy.site import index_of

SOURCES: list[Source] = [
    folder("./usr"),
    folder("usr/bin/"),
    file("usr/bin/tool", b"tool" * 50, mode=0o755),
    (info("usr/bin/link", tarfile.SYMTYPE, link="tool"), b""),
    (info("usr/bin/other", tarfile.LNKTYPE, link="./usr/bin/tool", mode=0o755), b""),
    (info("usr/bin/third", tarfile.LNKTYPE, link="usr/bin/other", mode=0o755), b""),
    file("never/said/folder/f", b"x"),
    file("never/.wh.gone", b""),
    folder("opaque"),
    file("opaque/.wh..wh..opq", b""),
    file("opaque/kept", b""),
    file(".wh.lib", b""),
    (info("null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
]


def seen(node: Node | None) -> object:
    """What overlay and a loader make of a node."""
    if isinstance(node, Directory):
        return ("directory", node.opaque)
    if node is None:
        return None
    return node.type, node.mode, node.size, node.target, node.content


def walk(tree: Tree, names: IndexNames) -> Iterator[tuple[bytes, Node, Node | None]]:
    """Every path of a tree, and what both have there."""
    pairs: list[tuple[bytes, Directory, Directory]] = [(b"", tree.root, names.root)]
    while pairs:
        path, directory, other = pairs.pop()
        for name, node in directory.entries.items():
            found = names.child(other, name)
            yield path + b"/" + name, node, found
            if isinstance(node, Directory) and isinstance(found, Directory):
                pairs.append((path + b"/" + name, node, found))


def check(tree: Tree, names: IndexNames) -> int:
    count = 0
    for path, node, found in walk(tree, names):
        assert seen(found) == seen(node), path
        count += 1
    return count


def test_every_name_is_what_the_tree_has() -> None:
    index = index_of(zstd_podman(SOURCES))
    names = IndexNames(index)
    assert check(tree_of(index), names) == 15
    usr = names.child(names.root, b"usr")
    assert isinstance(usr, Directory)
    binaries = names.child(usr, b"bin")
    assert isinstance(binaries, Directory)
    tool, other = names.child(binaries, b"tool"), names.child(binaries, b"other")
    assert isinstance(tool, Inode)
    assert isinstance(other, Inode)
    assert tool.content == other.content
    assert names.child(binaries, b"missing") is None
    assert names.child(names.root, b"us") is None


def test_links_in_a_circle_lead_nowhere() -> None:
    """A tree refuses them; here nobody has made one yet."""
    links = [(info("a", tarfile.LNKTYPE, link="b"), b""), (info("b", tarfile.LNKTYPE, link="a"), b"")]
    names = IndexNames(index_of(zstd_podman([*links, file("c", b"c")])))
    assert names.child(names.root, b"a") is None
    assert isinstance(names.child(names.root, b"c"), Inode)


def test_fixtures(fixtures_dir: Path) -> None:
    counts = [
        check(tree_of(index), IndexNames(index)) for index in map(index_of, (each for _, each in fixture_layers(fixtures_dir)))
    ]
    assert len(counts) >= 10
    assert max(counts) >= 60
