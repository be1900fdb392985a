"""Sealing what is there already: objects in their forest, and the image that tells of them."""

from __future__ import annotations

from pathlib import Path

from als.erofs.identity import uuid_of
from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.erofs.writer import write_image
from als.store.objects import forest_names
from als.store.sealing import seal_file, seal_forest
from als.verity.policy import Policy


def seal_copy(policy: Policy, image: Path, folder: Path, name: str, target: Path) -> str:
    """Seal objects that are in a forest already, and a copy of the image of their names that holds their digests.

    The caller makes sure, before or afterwards, that the objects are what the image promises.

    :param image: an image of a layer, or of a stack of layers.
    :param folder: what their forest is in.
    :param name: the DiffID or chain ID, in hex.
    :param target: where the copy is made.
    :returns: the copy's fs-verity digest in hex; "": nothing could be sealed, and there is no copy.
    :raises KernelError: it has to be sealed, and cannot.
    """
    if not policy.seals():
        return ""
    try:
        names = [bytes.fromhex(each) for each in forest_names(folder)]
        digests = seal_forest(folder, names, names)
        with target.open("xb") as file:
            write_image(read_image_file(image, LAYER), file, LAYER, verity=digests, uuid=uuid_of(name))
        return seal_file(target).hex()
    except OSError as error:
        target.unlink(missing_ok=True)
        policy.failed(error, str(folder))
        return ""
