"""Nodes as lines of text, so that another process can know what the kernel was told. Pure.

An inode number is a hash and says nothing about the file, and the kernel never tells again what it was told. So each change of
the node table is one line, a JSON list: ``["+", node]`` a node was told, ``["^", inode]`` once more, ``["-", inode, n]`` n
lookups were forgotten, ``["=", n, node]`` a node with all its lookups, of a table that is written as a whole. A node is
a list as well, its kind first.
"""

from __future__ import annotations

import json
from pathlib import Path

from als.fuse import nodes
from als.fuse.backend import ServedLayer


def told(node: nodes.Node) -> bytes:
    """The kernel is about to be told of a node."""
    return _line(["+", _values(node)])


def told_again(inode: int) -> bytes:
    """The kernel is about to be told of a node exactly as before."""
    return _line(["^", inode])


def forgotten(inode: int, lookups: int) -> bytes:
    """The kernel dropped that many lookups."""
    return _line(["-", inode, lookups])


def known(node: nodes.Node, lookups: int) -> bytes:
    """A node with all its lookups."""
    return _line(["=", lookups, _values(node)])


def replay(data: bytes) -> nodes.NodeTable:
    """The table that a number of lines stand for.

    The last line may be cut off: the kernel was not told of it yet, and what it dropped is kept for nothing.

    :raises ValueError: these are other lines.
    """
    table = nodes.NodeTable()
    *lines, _ = data.split(b"\n")
    for line in lines:
        try:
            _apply(table, json.loads(line))
        except (TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"not a record of a node: {line[:200]!r}") from error
    return table


def _apply(table: nodes.NodeTable, record: object) -> None:
    match record:
        case ["+", [*values]]:
            table.remember(_node(values))
        case ["^", int(inode)]:
            node = table.get(inode)
            if node is None:
                raise ValueError(f"a node that was told again and never before: {inode}")
            table.remember(node)
        case ["-", int(inode), int(lookups)]:
            table.forget(inode, lookups)
        case ["=", int(lookups), [*values]]:
            table.remember(_node(values), lookups)
        case _:
            raise ValueError(f"not a record of a node: {record!r}")


def _line(record: list[object]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _values(node: nodes.Node) -> list[object]:
    match node:
        case nodes.ReferenceDir(reference):
            return ["reference", reference]
        case nodes.LayerDir(reference, digest):
            return ["layer", reference, digest]
        case nodes.Diff(parent, layer) | nodes.Info(parent, layer) | nodes.Blob(parent, layer):
            served = [layer.key, str(layer.diff), layer.info.decode(), layer.blob_size]
            return [node.name, parent.reference, parent.digest, *served]
        case nodes.LazyRoot():
            return ["lazy"]
        case nodes.LazyLayerDir(key):
            return ["lazy layer", key]
        case nodes.LazyForestDir(key):
            return ["lazy forest", key]
        case nodes.LazyFile(places, commitment, length):
            return ["lazy file", commitment.hex(), length, *([key, name.hex()] for key, name in places)]
    raise AssertionError(f"the kernel is told of {node!r}")


_LAYER_FILES: dict[str, type[nodes.Diff] | type[nodes.Info] | type[nodes.Blob]] = {
    "diff": nodes.Diff,
    "info": nodes.Info,
    "blob": nodes.Blob,
}


def _node(values: list[object]) -> nodes.Node:
    """
    :raises ValueError: it is none.
    """
    match values:
        case ["reference", str(reference)]:
            return nodes.ReferenceDir(reference)
        case ["layer", str(reference), str(digest)]:
            return nodes.LayerDir(reference, digest)
        case [("diff" | "info" | "blob") as kind, str(reference), str(digest), str(key), str(diff), str(info), int(size)]:
            layer = ServedLayer(key, Path(diff), info.encode(), size)
            return _LAYER_FILES[kind](nodes.LayerDir(reference, digest), layer)
        case ["lazy"]:
            return nodes.LazyRoot()
        case ["lazy layer", str(key)]:
            return nodes.LazyLayerDir(key)
        case ["lazy forest", str(key)]:
            return nodes.LazyForestDir(key)
        case ["lazy file", str(commitment), int(length), first, *others]:
            places = tuple(_place(place) for place in (first, *others))
            return nodes.LazyFile(places, bytes.fromhex(commitment), length)
    raise ValueError(f"not a node: {values!r}")


def _place(value: object) -> tuple[str, bytes]:
    match value:
        case [str(key), str(name)]:
            return key, bytes.fromhex(name)
    raise ValueError(f"not the place of a file: {value!r}")
