"""Names and inode numbers of the tree, and what the kernel's lookup counts do to them."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.fuse import nodes
from als.fuse.backend import ServedLayer
from tests.fuse.conftest import REFERENCE, digest_of

SERVED = ServedLayer("key", Path("/a/diff"), b"{}", 5)
LAYER = nodes.LayerDir(REFERENCE, digest_of(1))
INFO = nodes.Info(LAYER, SERVED)


@given(st.text(min_size=1))
def test_every_text_has_one_name(text: str) -> None:
    name = nodes.ReferenceDir(text).path.encode()
    assert name == base64.b64encode(text.encode())
    assert nodes.parse_reference(name) == text


@given(st.binary(max_size=60))
def test_no_reference_has_two_names(name: bytes) -> None:
    reference = nodes.parse_reference(name)
    if reference is not None:
        assert base64.b64encode(reference.encode()) == name


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b".",
        b"..",
        b".tar-split",
        b"YQ",  # no padding
        b"YR==",  # bits that no encoder sets
        b"YQ==\n",
        b"YQ==YQ==",
        b"Y Q==",
        b"_-8=",  # the URL alphabet
        base64.b64encode(b"\xff\xfe"),  # not UTF-8
    ],
)
def test_other_names_are_no_references(name: bytes) -> None:
    assert nodes.parse_reference(name) is None


@pytest.mark.parametrize("reference", ["a", REFERENCE, "docker.io/library/debian@" + digest_of(0), "é"])
def test_a_reference_is_one_name_of_a_path(reference: str) -> None:
    assert "/" not in nodes.ReferenceDir(reference).path


@pytest.mark.parametrize("name", [b"", b"sha256:", b"sha256:" + b"A" * 64, b"sha256:" + b"\xff" * 64, b"md5:" + b"0" * 32])
def test_other_names_are_no_digests(name: bytes) -> None:
    assert nodes.parse_digest(name) is None


def test_inode_numbers_never_change() -> None:
    """These were given out; another number would be another file to a request that outlived a daemon."""
    assert nodes.Root().inode == 1
    assert nodes.ReferenceDir("a").inode == 9181729522076531553


@given(st.text(min_size=1))
def test_inode_numbers_fit_and_differ(reference: str) -> None:
    layer = nodes.LayerDir(reference, digest_of(1))
    numbers = [node.inode for node in (nodes.ReferenceDir(reference), layer, *nodes.layer_files(layer, SERVED))]
    assert len(set(numbers)) == 5
    assert all(1 << 62 <= number < 1 << 63 for number in numbers)


def lazy_file(key: str, name: bytes = b"n" * 32, commitment: bytes = b"c" * 32, size: int = 5) -> nodes.LazyFile:
    return nodes.LazyFile(((key, name),), commitment, size)


def test_a_lazy_file_is_known_by_its_bytes() -> None:
    one = lazy_file("1" * 64)
    assert one.path == f".lazy/{'1' * 64}/.als/{(b'n' * 32).hex()}"
    assert one.inode == 8702876588501025906
    assert lazy_file("2" * 64, b"other name").inode == one.inode
    others = [
        lazy_file("1" * 64, commitment=b"d" * 32),
        lazy_file("1" * 64, size=6),
        nodes.LazyRoot(),
        nodes.LazyLayerDir("1" * 64),
        nodes.LazyForestDir("1" * 64),
    ]
    assert len({one.inode, *(other.inode for other in others)}) == 6
    assert all(1 << 62 <= node.inode < 1 << 63 for node in (one, *others))


@given(st.text(min_size=1))
def test_no_reference_is_called_like_what_is_not_one(reference: str) -> None:
    name = nodes.ReferenceDir(reference).path
    assert "." not in name
    assert " " not in name


def test_a_lazy_file_is_remembered_with_all_its_layers_the_newest_first() -> None:
    table = nodes.NodeTable()
    for key in ("1", "2", "3", "1"):
        assert table.remember(lazy_file(key))
    node = table.get(lazy_file("1").inode)
    assert isinstance(node, nodes.LazyFile)
    assert [key for key, _ in node.places] == ["1", "3", "2"]
    table.forget(node.inode, 4)
    assert table.get(node.inode) is None


def test_what_a_layer_holds() -> None:
    found = {node.name: node for node in nodes.layer_files(LAYER, SERVED)}
    assert tuple(name.encode() for name in found) == nodes.LAYER_FILES
    assert {name: (stat.filemode(node.mode), node.size) for name, node in found.items()} == {
        "diff": ("lrwxrwxrwx", 7),
        "info": ("-r--r--r--", 2),
        "blob": ("-r--r--r--", 5),
    }


def test_a_node_goes_with_its_last_lookup() -> None:
    table = nodes.NodeTable()
    assert table.remember(LAYER)
    assert table.remember(LAYER)
    assert len(table) == 2
    table.forget(LAYER.inode, 1)
    assert table.get(LAYER.inode) == LAYER
    table.forget(LAYER.inode, 1)
    assert table.get(LAYER.inode) is None
    table.forget(LAYER.inode, 3)
    table.forget(nodes.ROOT_INODE, 99)
    assert len(table) == 1
    assert table.get(nodes.ROOT_INODE) == nodes.Root()


def test_the_newest_description_of_a_node_wins() -> None:
    table = nodes.NodeTable()
    newer = nodes.Info(LAYER, ServedLayer("key", Path("/b/diff"), b"[1]", 6))
    table.remember(INFO)
    assert table.remember(newer)
    assert table.get(INFO.inode) is newer
