"""Layers as one: lookups and flattening against a merge of plain dictionaries."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.model.merged import find_merged, flatten, lowest
from als.model.tree import WHITEOUT, Directory, FileType, Inode, Node, Tree

NAMES = st.sampled_from([b"a", b"b", b"c"])


def file(data: bytes) -> Inode:
    return Inode(FileType.FILE, 0o644, size=len(data), data=data)


def link(target: bytes) -> Inode:
    return Inode(FileType.SYMLINK, 0o777, target=target)


def folder(entries: dict[bytes, Node], opaque: bool = False) -> Directory:
    return Directory(Inode(FileType.DIR, 0o755), entries, opaque)


LEAVES: st.SearchStrategy[Node] = st.just(WHITEOUT) | st.integers(0, 9).map(lambda n: file(b"%d" % n))
NODES = st.recursive(LEAVES, lambda inner: st.builds(folder, st.dictionaries(NAMES, inner), st.booleans()), max_leaves=12)
TREES = st.dictionaries(NAMES, NODES).map(lambda entries: Tree(folder(entries)))

Plain = dict[bytes, "Plain | bytes"]


def overlay(layers: Sequence[Directory]) -> Plain:
    """What overlay shows of directories that are merged, topmost first; written for plainness, not for speed."""
    shown: Plain = {}
    for name in {name for layer in layers for name in layer.entries}:
        folders: list[Directory] = []
        for layer in layers:
            node = layer.entries.get(name)
            if node is None:
                continue
            if isinstance(node, Directory):
                folders.append(node)
                if node.opaque:
                    break
                continue
            if not folders and node is not WHITEOUT:
                shown[name] = node.data or b""
            break
        if folders:
            shown[name] = overlay(folders)
    return shown


def plain(directory: Directory) -> Plain:
    assert not directory.opaque
    return {
        name: plain(node) if isinstance(node, Directory) else (node.data or b"") for name, node in directory.entries.items()
    }


@given(layers=st.lists(TREES, min_size=1, max_size=4))
def test_flattened_layers_show_what_overlay_shows(layers: list[Tree]) -> None:
    flat = lowest(layers[0])
    for upper in layers[1:]:
        flat = flatten(flat, upper)
    assert plain(flat.root) == overlay([layer.root for layer in reversed(layers)])


@given(layers=st.lists(TREES, min_size=1, max_size=4), path=st.lists(NAMES, min_size=1, max_size=4))
def test_lookups_find_what_overlay_shows(layers: list[Tree], path: list[bytes]) -> None:
    shown: Plain | bytes | None = overlay([layer.root for layer in reversed(layers)])
    for name in path:
        shown = shown.get(name) if isinstance(shown, dict) else None
    found = find_merged(layers, b"/".join(path))
    assert (found is None) == (shown is None)
    if found is not None and isinstance(found.node, Inode):
        assert (found.node.data or b"") == shown
        assert found.node is layers[found.layer].find(b"/".join(path))


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (b"/l", b"x"),
        (b"l", b"x"),
        (b"/up/l", b"x"),
        (b"/d/../d/f", b"x"),
        (b"/absolute/f", b"x"),
        (b"/../../d/f", b"x"),
        (b"/loop", None),
        (b"/dangling", None),
        (b"/d/f/x", None),
        (b"/d/nothing", None),
    ],
)
def test_symlinks_are_followed_across_layers(path: bytes, data: bytes | None) -> None:
    low = Tree(folder({b"d": folder({b"f": file(b"x")}), b"loop": link(b"loop")}))
    top = Tree(
        folder(
            {
                b"l": link(b"d/./f"),
                b"up": folder({b"l": link(b"../d/f")}),
                b"absolute": link(b"//d"),
                b"dangling": link(b"nowhere/f"),
            }
        )
    )
    found = find_merged([low, top], path)
    assert (found.node.data if found is not None and isinstance(found.node, Inode) else None) == data
