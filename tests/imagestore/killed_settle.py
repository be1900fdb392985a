"""``python -m tests.imagestore.killed_settle ROOT STEPS < LAYERS``: a lazy layer is listed as complete, in a process that ends
at once before a given step.

A step is a change that a crash could separate from the next: a file linked, a name removed or given, a mount taken away. It
ends as by kill -9. Standard input has the entries of the image's layers as a JSON list, by DiffIDs, the lowest first. Prints
how many steps there were if it was not killed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import als.imagestore.composefs
import als.imagestore.tree
import als.mount.unmounting
from als.imagestore.composefs import ComposefsStore
from als.imagestore.records import PublishedLayer
from als.store.layers import Layers
from als.store.layout import Layout
from tests.life.killed_gc import Steps


def main(root: str, until: str) -> None:
    steps = Steps(int(until))
    layout = Layout(Path(root))
    store = ComposefsStore(layout, Layers(layout))
    layers = [PublishedLayer.from_json(entry) for entry in json.load(sys.stdin)]
    for name in ("unlink", "rmdir", "rename", "symlink", "link"):
        # pathlib and shutil call these by their names in os.
        setattr(os, name, steps.counted(getattr(os, name)))
    for module, name in (
        (als.imagestore.composefs, "add_to_forest"),
        (als.imagestore.composefs, "sync_file_system"),
        (als.mount.unmounting.native, "unmount"),
    ):
        setattr(module, name, steps.counted(getattr(module, name)))
    store.settle(layers)
    print(steps.count)


if __name__ == "__main__":
    main(*sys.argv[1:])
