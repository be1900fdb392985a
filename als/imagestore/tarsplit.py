"""tar-split files of layers that were made without: once for all chains of a layer."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.model.digest import Digest
from als.store.layers import Layers
from als.store.layout import TarSplitForm
from als.store.tarsplit import write_forest_tar_split, write_tar_split


def make_tar_split(layers: Layers, diff_id: Digest, form: TarSplitForm, tmp: Path) -> None:
    """Have a layer's tar-split file.

    :param tmp: where it can be made, on the store's file system.
    :raises StoreDamaged: the layer is not what it was.
    """
    target = layers.tar_split(diff_id, form)
    if target.exists():
        return
    recipe, open_object = layers.recipe(diff_id), layers.opener(diff_id)
    staging = tmp / f"tar-split-{secrets.token_hex(6)}"
    try:
        with staging.open("xb") as out:
            if form is TarSplitForm.FOREST:
                write_forest_tar_split(recipe, open_object, out)
            else:
                write_tar_split(read_image_file(layers.image(diff_id), LAYER), recipe, open_object, out)
            out.flush()
            # Once it has its name nobody asks again whether it is whole.
            os.fsync(out.fileno())
        staging.rename(target)
    finally:
        staging.unlink(missing_ok=True)
