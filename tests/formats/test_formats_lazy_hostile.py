"""Tables of contents that lie, or are none: each is refused with a clear error, though the manifest commits to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from als.errors import BadImage, LimitExceeded, Unsupported
from als.formats.lazy import BlobRange
from als.model.limits import DEFAULT_LIMITS, Limits
from tests.formats.liars import (
    A2,
    A3,
    EMPTY,
    HUGE,
    SHA,
    SOURCES,
    A,
    B,
    append,
    drop,
    finish,
    format_for,
    lied,
    outcome,
    put,
    remove,
    same_unit,
    swap,
    writer,
)
from tests.formats.tocbuilder import (
    Row,
    document_of,
    estargz,
    zstd_podman,
)

ROWS: dict[str, tuple[Callable[[list[Row]], None], str]] = {
    # names
    "dot dot": (put(B, name="d/../../b"), "'..' in it"),
    "dot dot within": (put(B, name="d/x/../b"), "'..' in it"),
    "absolute dot dot": (put(B, name="/../b"), "'..' in it"),
    "no name": (put(B, name=""), "without a name"),
    "null name": (put(B, name=None), "without a name"),
    "nul": (put(B, name="d/b\0c"), "NUL"),
    "number as name": (put(B, name=7), "'name' is not a string"),
    "surrogate": (put(B, name="d/\ud800"), "no UTF-8 form"),
    "lost name": (put(B, name="d/\ufffd"), "no UTF-8, which"),
    "lost target": (append(type="symlink", name="s", linkName="\ufffd"), "no UTF-8, which"),
    "lost xattr": (put(B, xattrs={"user.\ufffd": ""}), "no UTF-8, which"),
    "twice": (append(type="fifo", name="d/a"), "given twice"),
    "twice, spelled otherwise": (append(type="dir", name="./d"), "given twice"),
    "twice, with slashes": (append(type="dir", name="/d//"), "given twice"),
    "long name": (put(B, name="d/" + "x" * 300), "too long"),
    "long path": (put(B, name="x/" * 40_000), "longer than"),
    "below a file": (append(type="fifo", name="d/empty/b"), "not a directory"),
    "root is a file": (put(B, name="./"), "not a directory"),
    "below a whiteout": (put(B, name="d/.wh.x/b"), "below a whiteout"),
    # types
    "unknown type": (put(0, type="socket"), "unknown type 'socket'"),
    "no type": (drop(0, "type"), "unknown type 'None'"),
    "type is a list": (put(0, type=["dir"]), "unknown type"),
    "mode is text": (put(B, mode="0644"), "'mode' is not a number"),
    "mode is a float": (put(B, mode=1.5), "'mode' is not a number"),
    "mode is true": (put(B, mode=True), "'mode' is not a number"),
    "negative uid": (put(B, uid=-1), "'uid' is not a number"),
    "uid of 64 bits": (put(B, uid=1 << 40), "owner that cannot exist"),
    "invalid uid": (put(B, uid=0xFFFFFFFF), "owner that cannot exist"),
    "mode of 64 bits": (put(B, mode=1 << 40), "mode, size or time"),
    "device": (append(type="char", name="c", devMajor=1 << 20, devMinor=1), "device number"),
    "symlink to nothing": (append(type="symlink", name="s"), "no possible path"),
    "xattrs is a list": (put(B, xattrs=["user.a"]), "'xattrs' is not an object"),
    "xattr is a number": (put(B, xattrs={"user.a": 3}), "value that is not a string"),
    "xattr is no base64": (put(B, xattrs={"user.a": "!!"}), "not base64"),
    "xattr without a name": (put(B, xattrs={"": "aaaa"}), "no possible name"),
    "wrong case": (put(B, Size=5), "'Size' is written in another case"),
    "wrong case, folded": (lambda rows: rows[B].update({"chun\u212asize": 5}), "another case"),
    "modtime is text": (put(B, modtime="yesterday"), "'modtime' is not a time"),
    "modtime is a number": (put(B, modtime=5), "'modtime' is not a string"),
    "modtime is no day": (put(B, modtime="2023-02-30T00:00:00Z"), "'modtime' is not a time"),
    # links
    "hardlink to nothing": (append(type="hardlink", name="h", linkName="nowhere"), "does not exist"),
    "hardlink to itself": (append(type="hardlink", name="h", linkName="h"), "does not exist"),
    "hardlink to a later name": (
        lambda rows: rows.insert(0, {"type": "hardlink", "name": "h", "linkName": "d/a"}),
        "not exist",
    ),
    "hardlink to a directory": (append(type="hardlink", name="h", linkName="d"), "to the directory"),
    "hardlink out": (append(type="hardlink", name="h", linkName="../../etc/passwd"), "leads out"),
    # chunks
    "negative offset": (put(B, offset=-1), "'offset' is not a number"),
    "huge offset": (put(B, offset=1 << 62), "does not lie in"),
    "overflowing offset": (put(B, offset=(1 << 64) + 5), "'offset' is not a number"),
    "no offset": (put(A, offset=0), "does not lie in"),
    "beyond the data": (put(B, offset=1 << 20), "does not lie in"),
    "negative inner offset": (put(B, innerOffset=-5), "'innerOffset' is not a number"),
    "huge inner offset": (put(B, innerOffset=(1 << 63) - 1), "unit holds more"),
    "chunks overlap in the file": (put(A2, chunkOffset=999), "overlap, or leave gaps"),
    "chunks leave a gap": (put(A2, chunkOffset=1001), "overlap, or leave gaps"),
    "chunk of another size": (put(A2, chunkSize=900), "overlap, or leave gaps"),
    "chunk of huge size": (put(A2, chunkSize=1 << 62), "overlap, or leave gaps"),
    "chunk of negative size": (put(A2, chunkSize=-1), "'chunkSize' is not a number"),
    "last chunk too long": (put(A3, chunkSize=5000), "overlap, or leave gaps"),
    "chunk missing": (remove(A2), "overlap, or leave gaps"),
    "last chunk missing": (remove(A3), "overlap, or leave gaps"),
    "first chunk not at 0": (put(B, chunkOffset=5), "overlap, or leave gaps"),
    "chunks swapped": (swap(A2, A3), "overlap, or leave gaps"),
    "same unit twice": (same_unit(A3, A2), "overlap in the blob"),
    "unit of an earlier file": (same_unit(B, A), "overlap in the blob"),
    "chunk first": (lambda rows: rows.insert(0, {"type": "chunk", "name": "x"}), "follows no file"),
    "chunk of a directory": (lambda rows: rows.insert(1, {"type": "chunk", "name": "d/"}), "follows no file"),
    "chunk of an empty file": (append(type="chunk", name="d/empty", offset=5), "follows no file"),
    "chunk of another file": (put(A2, name="d/b"), "chunk of another file"),
    "chunk of unknown type": (put(A2, chunkType="secret"), "unknown type 'secret'"),
    "no chunk digest": (drop(A2, "chunkDigest"), "without a digest"),
    "no digest at all": (drop(B, "digest", "chunkDigest"), "without a digest"),
    "sha512": (put(B, digest="sha512:" + "0" * 128, chunkDigest=None), "'digest' is not a sha256"),
    "digest is no text": (put(B, digest=5), "'digest' is not a sha256"),
    "digest in capitals": (put(B, digest="sha256:" + "A" * 64), "'digest' is not a sha256"),
    "file and chunk disagree": (put(B, digest=SHA, chunkDigest="sha256:" + "2" * 64), "different digests"),
    "empty file with another digest": (put(EMPTY, digest=SHA), "empty file with content"),
    "size mismatch": (put(B, size=101, chunkSize=100), "overlap, or leave gaps"),
    "negative size": (put(B, size=-1), "'size' is not a number"),
    "huge size": (put(B, size=(1 << 63) - 1), "a file of 9223372036854775807 bytes"),
    "all too large": (put(B, size=1 << 38), "more than 274877906944 bytes"),
    "same digest, other size": (lambda rows: rows[A].update(digest=rows[B]["digest"]), "different size have the same digest"),
    "end of file out of the data": (put(B, endOffset=1 << 40), "ends outside"),
    "end of file before it": (put(B, endOffset=1), "ends outside"),
    "negative end": (put(B, endOffset=-3), "'endOffset' is not a number"),
}


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
@pytest.mark.parametrize("name", ROWS)
def test_a_hostile_entry_is_refused(name: str, flavour: str) -> None:
    change, words = ROWS[name]
    made = writer(flavour)
    change(made.rows)
    document = json.dumps({"version": 1, "entries": made.rows}).encode()
    error = outcome(finish(flavour, made, document))
    assert isinstance(error, BadImage), "it was accepted"
    assert words in str(error)
    assert str(error).isprintable()


DOCUMENTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "too early"),
    "space": (b"  \n", "too early"),
    "no object": (b"[]", "'[' where"),
    "a number": (b"1", "'1' where"),
    "version missing": (b'{"entries":[]}', "of version 'None'"),
    "version 2": (b'{"version":2,"entries":[]}', "of version '2'"),
    "version huge": (b'{"version":%d,"entries":[]}' % HUGE, "of version"),
    "number of too many digits": (b'{"version":1,"entries":[{"size":' + b"9" * 5000 + b"}]}", "JSON"),
    "NaN": (b'{"version":1,"entries":[{"type":"reg","name":"a","size":NaN}]}', "NaN is not JSON"),
    "infinity": (b'{"version":-Infinity,"entries":[]}', "Infinity is not JSON"),
    "infinite float": (b'{"version":1,"entries":[{"type":"reg","name":"a","size":1e999}]}', "'size' is not a number"),
    "field twice": (b'{"version":1,"entries":[{"type":"dir","name":"a","name":"b"}]}', "given twice"),
    "entries twice": (b'{"version":1,"entries":[],"entries":[]}', "given twice"),
    "version twice": (b'{"version":1,"version":1,"entries":[]}', "given twice"),
    "deep": (b'{"version":1,"entries":[{"x":' + b"[" * 100_000, "nested too deeply"),
    "deep and whole": (b'{"x":' + b"[" * 5000 + b"]" * 5000 + b',"version":1}', "nested too deeply"),
    "entries is an object": (b'{"version":1,"entries":{}}', "not an array"),
    "entry is a list": (b'{"version":1,"entries":[[]]}', "not an object"),
    "entry is null": (b'{"version":1,"entries":[null]}', "not an object"),
    "no UTF-8": (b'{"version":1,"entries":[{"type":"dir","name":"\xff"}]}', "no UTF-8"),
    "cut in a character": (b'{"version":1,"entries":[],"x":"\xc3', "no UTF-8"),
    "cut": (b'{"version":1,"entries":[{"type":"dir","name":"a"}', "too early"),
    "cut in an entry": (b'{"version":1,"entries":[{"type":"dir","na', "JSON"),
    "no comma": (b'{"version":1,"entries":[{"type":"dir","name":"a"}{"type":"dir","name":"b"}]}', "where one of"),
    "trailing comma": (b'{"version":1,"entries":[{"type":"dir","name":"a"},]}', "JSON"),
    "field without a name": (b'{1:2,"version":1,"entries":[]}', "no string"),
    "something follows": (b'{"version":1,"entries":[]}{}', "something follows"),
    "control character": (b'{"version":1,"entries":[{"type":"dir","name":"a\n"}]}', "JSON"),
    "long value": (b'{"version":1,"x":"' + b"y" * (5 << 20) + b'","entries":[]}', "a value has more than"),
    "wrong case": (b'{"version":1,"Entries":[],"entries":[]}', "another case"),
    "tar-split digest is a number": (b'{"version":1,"entries":[],"tarSplitDigest":5}', "not a string"),
}


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_hostile_document_is_refused(name: str, flavour: str) -> None:
    document, words = DOCUMENTS[name]
    error = outcome(finish(flavour, writer(flavour), document))
    assert isinstance(error, BadImage), "it was accepted"
    assert words in str(error)


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
def test_what_is_unknown_is_no_error(flavour: str) -> None:
    made = writer(flavour)
    made.rows[B]["future"] = [{"a": 1.5}]
    made.rows[B]["linkName"] = None
    document = document_of(made.rows, other={"x": [1, 2, None]}, number=12)
    assert outcome(finish(flavour, made, document)) is None
    empty = finish(flavour, writer(flavour), b'\n{ "entries" : null , "version":1 }\n')
    assert len(empty.index(format_for(empty))) == 0


LIMITED = [
    (replace(DEFAULT_LIMITS, entries=3), "more than 3 entries"),
    (replace(DEFAULT_LIMITS, chunks=2), "more than 2 chunks"),
    (replace(DEFAULT_LIMITS, toc_bytes=50), "a table of contents of"),
    (replace(DEFAULT_LIMITS, toc_text_bytes=300), None),
    (replace(DEFAULT_LIMITS, metadata_bytes=10), "bytes of metadata"),
    (replace(DEFAULT_LIMITS, file_bytes=2000), "a file of 2500 bytes"),
    (replace(DEFAULT_LIMITS, layer_bytes=2550, toc_text_bytes=1 << 20), None),
    (replace(DEFAULT_LIMITS, header_bytes=40), None),
]


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
@pytest.mark.parametrize(("limits", "words"), LIMITED)
def test_limits(limits: Limits, words: str | None, flavour: str) -> None:
    layer = estargz(SOURCES, 1000) if flavour == "estargz" else zstd_podman(SOURCES, 1000)
    assert outcome(layer) is None
    error = outcome(layer, limits)
    assert isinstance(error, LimitExceeded)
    assert words is None or words in str(error)


def test_a_bomb_is_stopped() -> None:
    """Hundreds of megabytes of spaces in a table of contents of some hundred kilobytes."""
    limits = replace(DEFAULT_LIMITS, expansion_floor=1 << 20)
    document = b'{"version":1,"entries":[' + b" " * (64 << 20) + b"]}"
    for flavour in ("estargz", "podman"):
        layer = finish(flavour, writer(flavour), document)
        assert isinstance(outcome(layer, limits), LimitExceeded)


def test_requests_lie_within_the_blob() -> None:
    for layer in (estargz(SOURCES), zstd_podman(SOURCES, annotated=False)):
        layer.index(format_for(layer))
        for each in layer.asked:
            assert isinstance(each, BlobRange)
            assert 0 <= each.offset < each.offset + each.length <= len(layer.blob)


def test_what_cannot_serve_lazily_says_so() -> None:
    assert isinstance(outcome(lied("estargz", drop(A2, "chunkDigest"))), Unsupported)
