"""Names that are looked up in an image one by one: the same as in the tree it was made of."""

from __future__ import annotations

import io
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from als.erofs.profile import LAYER
from als.erofs.reader import ImageNames
from als.erofs.writer import write_image
from als.errors import StoreDamaged
from als.model.merged import find_merged
from als.model.tree import Directory, Node, Tree
from tests.erofs.trees import crowded, describe, trees


def written(tree: Tree, path: Path) -> Path:
    out = io.BytesIO()
    write_image(tree, out, LAYER)
    path.write_bytes(out.getvalue())
    return path


def collected(names: ImageNames, like: Tree) -> Tree:
    """All of `like` that can be found in `names`, put together anew; and nothing else is."""

    def copy(place: Directory, original: Directory) -> Directory:
        made = Directory(place.inode, opaque=place.opaque)
        for name, node in original.entries.items():
            child: Node | None = names.child(place, name)
            assert child is not None, name
            if isinstance(node, Directory):
                assert isinstance(child, Directory)
                child = copy(child, node)
            made.entries[name] = child
            assert names.child(place, name + b"?") is None or name + b"?" in original.entries
        return made

    return Tree(copy(names.root, like.root))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tree=trees(layer=True))
def test_all_names_are_found_with_what_they_stand_for(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        names = ImageNames(written(tree, Path(folder) / "image"), LAYER)
        found, expected = describe(collected(names, tree)), describe(tree)
        without_sha256 = {path: (*each[:9], *each[10:]) for path, each in found.items()}
        assert without_sha256 == {path: (*each[:9], *each[10:]) for path, each in expected.items()}


def test_layers_together_and_the_forest_that_is_not_shown(tmp_path: Path) -> None:
    layers = [crowded(seed, files=300) for seed in (1, 2)]
    images = [ImageNames(written(each, tmp_path / str(number)), LAYER) for number, each in enumerate(layers)]
    order = random.Random(3)
    paths = [path for each in layers for path, _ in each.walk()]
    for path in order.sample(paths, 200):
        found, expected = find_merged(images, path), find_merged(layers, path)
        assert (found and (found.path, found.layer)) == (expected and (expected.path, expected.layer))
    assert images[0].child(images[0].root, b".als") is None


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_an_error_or_an_answer(tmp_path: Path, seed: int) -> None:
    tree = crowded(5, files=60)
    data = bytearray(written(tree, tmp_path / "image").read_bytes())
    order = random.Random(seed)
    for _ in range(20):
        data[order.randrange(len(data) if seed % 2 else min(len(data), 8192))] = order.randrange(256)
    (tmp_path / "image").write_bytes(data)
    try:
        names = ImageNames(tmp_path / "image", LAYER)
    except StoreDamaged:
        return
    for path, _ in tree.walk():
        try:
            find_merged([names], path)
        except StoreDamaged:
            continue
