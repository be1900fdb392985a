"""Where a content lies in a layer's forest of objects.

A layer is shown as an overlay of its metadata image over its *forest*, a directory of hardlinks into the object store
(design: ``diff`` and ``diff1``). The image names each file's object by an absolute redirect, and overlay then looks that path
up in the layers below. composefs puts its objects at ``/xx/yyyy...`` and has to hide 256 directories, so an image which itself
has a directory ``/00`` cannot be told from it. We keep the whole forest below one directory instead, hidden by a single
whiteout: an image may then hold every name but that one. Below it the names are not spread over ``xx`` folders either: a small
layer would spend more on folders than on files, and one directory of a million names is no burden to a file system of today.
"""

from __future__ import annotations

FOREST = ".als"
"""The one directory at the top of every forest; it is hidden from containers by a whiteout of this name."""


def forest_path(name: bytes) -> str:
    """The path of the content `name` (32 bytes) relative to the top of a forest: ``.als/`` and its 64 hex digits."""
    return f"{FOREST}/{name.hex()}"
