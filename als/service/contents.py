"""Reading images back from the store: their trees, one file of them, their files' descriptions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.errors import NotFound
from als.model.digest import Digest
from als.model.forest import forest_path
from als.model.merged import find_merged
from als.model.tree import Directory, FileType, Inode, Tree, inode_of
from als.service import Service
from als.store.images import ImageRecord

_EMPTY_SHA256 = hashlib.sha256().hexdigest()
_PIECE = 1 << 20


def layer_tree(service: Service, diff_id: Digest) -> Tree:
    """A layer's tree, read from the very image that is mounted.

    :raises NotFound: the layer is not in the store.
    :raises StoreDamaged: the image is not what als wrote.
    """
    service.layers.get(diff_id)
    return read_image_file(service.layers.image(diff_id), LAYER)


def describe_layer(tree: Tree, layer: int, first_ino: int = 1) -> Iterator[dict[str, object]]:
    """One object for each name of a layer, in the order of :meth:`Tree.walk`, as ``als files --json`` prints it.

    Text that is not UTF-8 is escaped as Python's ``surrogateescape`` does.
    """
    numbers: dict[Inode, int] = {}
    for path, node in tree.walk():
        inode = inode_of(node)
        entry: dict[str, object] = {"layer": layer, "path": "/" + os.fsdecode(path), "type": inode.type.value}
        if inode.type is FileType.WHITEOUT:
            yield entry
            continue
        entry |= {
            "mode": f"{inode.mode:04o}",
            "uid": inode.uid,
            "gid": inode.gid,
            "mtime": [inode.mtime, inode.mtime_ns],
            "size": inode.size,
        }
        if inode.type is FileType.FILE:
            entry["sha256"] = file_sha256(inode)
        elif inode.type is FileType.SYMLINK:
            entry["linkname"] = os.fsdecode(inode.target)
        elif inode.type in (FileType.CHAR, FileType.BLOCK):
            entry["rdev"] = list(inode.rdev)
        if inode.xattrs:
            entry["xattrs"] = {os.fsdecode(name): value.hex() for name, value in inode.xattrs}
        entry["ino"] = numbers.setdefault(inode, first_ino + len(numbers))
        if isinstance(node, Directory) and node.opaque:
            entry["opaque"] = True
        yield entry


def file_sha256(inode: Inode) -> str | None:
    """The sha256 of a regular file's content in hex; None where it is not known yet."""
    if inode.data is not None:
        return hashlib.sha256(inode.data).hexdigest()
    if inode.content is not None:
        return inode.content.sha256.hex() if inode.content.sha256 is not None else None
    return _EMPTY_SHA256


def file_content(service: Service, image: ImageRecord, path: str) -> Iterator[bytes]:
    """A file's content as a container of the image sees it, symlinks followed, in pieces.

    :raises NotFound: there is no such regular file.
    """
    diff_ids = image.config.diff_ids
    found = find_merged([layer_tree(service, diff_id) for diff_id in diff_ids], os.fsencode(path))
    if found is None or isinstance(found.node, Directory) or found.node.type is not FileType.FILE:
        what = "no such file in the image" if found is None else f"a {inode_of(found.node).type.value}, not a file"
        raise NotFound(what, where=path, hint="`als files` lists them")
    inode = found.node
    if inode.data is not None:
        yield inode.data
    elif inode.content is not None:
        forest = service.layers.forest(diff_ids[found.layer])
        with (forest / forest_path(inode.content.name)).open("rb") as file:
            while data := file.read(_PIECE):
                yield data
