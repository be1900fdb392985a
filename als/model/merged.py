"""A look at several layers as one, by the rules of overlay: what a container sees at a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from als.model.tree import Directory, FileType, Inode, Node, Tree

_MAX_SYMLINKS = 40
"""As many as the kernel follows."""


class Names(Protocol):
    """A layer in which names can be looked up one by one: a :class:`Tree`, or what makes less of one."""

    @property
    def root(self) -> Directory:
        """Its root directory; what is in it is asked of `child`."""
        ...

    def child(self, directory: Directory, name: bytes) -> Node | None:
        """What a name stands for in a directory that this layer gave; None: there is no such name."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A node, and the index (0 is the lowest) of the layer it is from; of a directory, the topmost that has it."""

    node: Node
    layer: int
    path: bytes
    """Where it was found, free of symlinks."""


def find_merged(trees: Sequence[Names], path: bytes) -> Found | None:
    """What is at `path` in layers that are given lowest first, symlinks followed, also the last; None: nothing."""
    pending = _names(path)
    done: list[bytes] = []
    links = 0
    found: Found | None = _lookup(trees, [])
    while pending and found is not None:
        name = pending.pop(0)
        if name == b"..":
            del done[-1:]
            found = _lookup(trees, done)
            continue
        found = _lookup(trees, [*done, name])
        if found is not None and isinstance(found.node, Inode) and found.node.type is FileType.SYMLINK:
            links += 1
            if links > _MAX_SYMLINKS:
                return None
            target = found.node.target
            if target.startswith(b"/"):
                done.clear()
            pending = _names(target) + pending
            found = _lookup(trees, done)
        else:
            done.append(name)
    return found


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def _lookup(trees: Sequence[Names], names: Sequence[bytes]) -> Found | None:
    """The node at a path without symlinks on the way."""
    level: list[tuple[int, Node]] = [(index, tree.root) for index, tree in reversed(list(enumerate(trees)))]
    for name in names:
        level = _below(trees, level, name)
    if not level:
        return None
    index, node = level[0]
    return Found(node, index, b"/".join(names))


def _below(trees: Sequence[Names], level: Sequence[tuple[int, Node]], name: bytes) -> list[tuple[int, Node]]:
    """The nodes called `name` in directories that are merged, topmost first, as far down as they are seen."""
    found: list[tuple[int, Node]] = []
    for index, node in level:
        if not isinstance(node, Directory):
            break
        child = trees[index].child(node, name)
        if child is not None:
            if isinstance(child, Inode):
                if not found and child.type is not FileType.WHITEOUT:
                    found.append((index, child))
                break
            found.append((index, child))
            if child.opaque:
                break
        if node.opaque:
            break
    return found


def flatten(lower: Tree, upper: Tree) -> Tree:
    """One tree that shows what `upper` over `lower` shows; neither is changed.

    What whiteouts and opaque directories of `upper` hide is gone. Whiteouts are gone as well, and directories are no longer
    opaque, so `lower` has to be the lowest layer or the result of flattening: nothing may be below it.
    """
    return Tree(_flatten(lower.root, upper.root))


def _flatten(lower: Directory | None, upper: Directory) -> Directory:
    merged = Directory(upper.inode)
    below: dict[bytes, Node] = {} if lower is None or upper.opaque else lower.entries
    for name, node in below.items():
        if name not in upper.entries:
            merged.entries[name] = node
    for name, node in upper.entries.items():
        if isinstance(node, Directory):
            hidden = below.get(name)
            merged.entries[name] = _flatten(hidden if isinstance(hidden, Directory) else None, node)
        elif node.type is not FileType.WHITEOUT:
            merged.entries[name] = node
    return merged


def lowest(tree: Tree) -> Tree:
    """A lowest layer as it shows when nothing is below it: without whiteouts and opaque directories."""
    return Tree(_flatten(None, tree.root))
