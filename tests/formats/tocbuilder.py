"""Writers of eStargz and zstd:chunked for tests, made from the formats' descriptions with nothing of als's readers."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import zstandard

from tests.formats.lazylayers import LazyLayer, descriptor, sha256

OCI = "application/vnd.oci.image.layer.v1.tar"
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
PODMAN = "io.github.containers.zstd-chunked."
OLD = "io.containers.zstd-chunked."
_TYPES = {
    tarfile.REGTYPE: "reg",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}
Row = dict[str, Any]
Source = tuple[tarfile.TarInfo, bytes]


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "", **attributes: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    for key, value in attributes.items():
        setattr(member, key, value)
    return member


def file(name: str, content: bytes, **attributes: Any) -> Source:
    return info(name, size=len(content), **attributes), content


def folder(name: str, **attributes: Any) -> Source:
    return info(name, tarfile.DIRTYPE, **{"mode": 0o755, **attributes}), b""


def gzip_member(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def zstd_frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


def skippable(data: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A50, len(data)) + data


def estargz_footer(toc: int | None, legacy: bool = False) -> bytes:
    field_ = b"STARGZEXTERNALTOC" if toc is None else b"%016xSTARGZ" % toc
    extra = field_ if legacy else b"SG" + struct.pack("<H", len(field_)) + field_
    header = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H", len(extra)) + extra
    return header + b"\x01\x00\x00\xff\xff" + bytes(8)


def toc_archive(document: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(info("stargz.index.json", size=len(document)), io.BytesIO(document))
    return gzip_member(out.getvalue())


@dataclass
class Writer:
    """Writes the entries of a layer and remembers what its table of contents says of them.

    :param minimum: uncompressed bytes that a unit has at least, if it can (eStargz's minimum chunk size counts compressed ones,
        which makes no difference to who reads them).
    :param headers_apart: podman's zstd:chunked, with headers in frames of their own.
    """

    compress: Callable[[bytes], bytes]
    chunk_size: int = 4 << 20
    minimum: int = 0
    headers_apart: bool = False
    blob: bytearray = field(default_factory=bytearray)
    stream: bytearray = field(default_factory=bytearray)
    rows: list[Row] = field(default_factory=list)
    splits: list[Row] = field(default_factory=list)
    _open: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        self._open += data
        self.stream += data

    def flush(self) -> int:
        """End the unit; returns where the next one begins."""
        if self._open:
            self.blob += self.compress(bytes(self._open))
            self._open.clear()
        return len(self.blob)

    def add(self, member: tarfile.TarInfo, content: bytes) -> None:
        header = member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        self.write(header)
        self._split(header)
        row: Row = {
            "name": member.name + ("/" if member.isdir() and not member.name.endswith("/") else ""),
            "type": _TYPES[member.type],
            "mode": member.mode,
            "uid": member.uid,
            "gid": member.gid,
        }
        if member.mtime:
            row["modtime"] = datetime.fromtimestamp(member.mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if member.linkname:
            row["linkName"] = member.linkname
        if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            row |= {"devMajor": member.devmajor, "devMinor": member.devminor}
        xattrs = {key.removeprefix("SCHILY.xattr."): value for key, value in member.pax_headers.items() if "xattr" in key}
        if xattrs:
            row["xattrs"] = {key: base64.b64encode(value.encode()).decode() for key, value in xattrs.items()}
        if member.isreg():
            self._content(row, content)
            self.splits.append({"type": 1, "name": member.name, "size": len(content), "payload": "AAAAAAAAAAA="})
        else:
            self.rows.append(row)
        padding = bytes(-len(content) % 512)
        self.write(padding)
        self._split(padding)

    def _content(self, row: Row, content: bytes) -> None:
        row |= {"size": len(content)}
        if content or not self.headers_apart:
            row["digest"] = sha256(content)
        if not content:
            self.rows.append(row)
        starts = range(0, len(content), self.chunk_size)
        first = row
        for start in starts:
            piece = content[start : start + self.chunk_size]
            if not self.minimum or len(self._open) >= self.minimum or not self.blob:
                row["offset"] = self.flush()
            else:
                row |= {"offset": len(self.blob), "innerOffset": len(self._open)}
            if start:
                row["chunkOffset"] = start
            if start + len(piece) < len(content):
                row["chunkSize"] = len(piece)
            if len(starts) > 1 or not self.headers_apart:
                row["chunkDigest"] = sha256(piece)
            if self.headers_apart and len(starts) > 1:
                row["chunkSize"] = len(piece)
                if not piece.strip(b"\0"):
                    row["chunkType"] = "zeros"
            self.rows.append(row)
            self.write(piece)
            row = {"name": first["name"], "type": "chunk"}
        if starts and self.headers_apart:
            first["endOffset"] = self.flush()

    def _split(self, data: bytes) -> None:
        if data:
            self.splits.append({"type": 2, "payload": base64.b64encode(data).decode()})

    def end(self) -> None:
        """The archive's end marker, for blobs whose table of contents is not part of the stream."""
        self.write(bytes(1024))
        self._split(bytes(1024))

    def landmark(self, name: str) -> None:
        self.flush()
        minimum, self.minimum = self.minimum, 0
        self.add(*file(name, b"\x0f", mode=0))
        self.minimum = minimum


def document_of(rows: list[Row], **more: object) -> bytes:
    return json.dumps({"version": 1, "entries": rows, **more}).encode()


def estargz(sources: list[Source], chunk_size: int = 4 << 20, minimum: int = 0, **options: Any) -> LazyLayer:
    """An eStargz layer."""
    writer = Writer(gzip_member, chunk_size, minimum)
    for number, (member, content) in enumerate(sources):
        if number == options.get("prioritized"):
            writer.landmark(".prefetch.landmark")
        writer.add(member, content)
    return finish_estargz(writer, **options)


def finish_estargz(
    writer: Writer,
    document: bytes | None = None,
    footer: bytes | None = None,
    *,
    external: bool = False,
    legacy: bool = False,
    prioritized: int | None = None,
) -> LazyLayer:
    document = document if document is not None else document_of(writer.rows)
    toc = toc_archive(document)
    if external:
        writer.end()
    start = writer.flush()
    stream = bytes(writer.stream)
    if external:
        blob = bytes(writer.blob) + estargz_footer(None)
    else:
        stream += gzip.decompress(toc)
        blob = bytes(writer.blob) + toc + (footer if footer is not None else estargz_footer(start, legacy))
    described = descriptor(OCI + "+gzip", blob, {TOC_DIGEST: sha256(document)})
    return LazyLayer("estargz", 0, described, blob, sha256(stream), toc if external else None)


def zstd_stargz(sources: list[Source], chunk_size: int = 4 << 20, minimum: int = 0) -> LazyLayer:
    """A zstd:chunked layer as stargz-snapshotter writes them."""
    writer = Writer(zstd_frame, chunk_size, minimum)
    for member, content in sources:
        writer.add(member, content)
    writer.end()
    start = writer.flush() + 8
    document = document_of(writer.rows)
    toc = zstd_frame(document)
    footer = struct.pack("<4Q8s", start, len(toc), len(document), 1, b"GnUlInUx")
    blob = bytes(writer.blob) + skippable(toc) + skippable(footer)
    annotations = {
        TOC_DIGEST: sha256(document),
        OLD + "manifest-checksum": sha256(toc),
        OLD + "manifest-position": f"{start}:{len(toc)}:{len(document)}:1",
    }
    return LazyLayer("zstd-stargz", 0, descriptor(OCI + "+zstd", blob, annotations), blob, sha256(bytes(writer.stream)))


def zstd_podman(sources: list[Source], chunk_size: int = 4 << 20, **options: Any) -> LazyLayer:
    """A zstd:chunked layer as podman writes them."""
    writer = Writer(zstd_frame, chunk_size, headers_apart=True)
    for member, content in sources:
        writer.add(member, content)
    writer.end()
    return finish_podman(writer, **options)


def finish_podman(
    writer: Writer,
    document: bytes | None = None,
    *,
    tar_split: bool = True,
    annotated: bool = True,
    splits: bytes | None = None,
    position: str | None = None,
) -> LazyLayer:
    start = writer.flush() + 8
    split_text = splits if splits is not None else b"".join(json.dumps(row).encode() + b"\n" for row in writer.splits)
    split = zstd_frame(split_text)
    if document is None:
        document = document_of(writer.rows, **({"tarSplitDigest": sha256(split)} if tar_split else {}))
    toc = zstd_frame(document)
    split_start = start + len(toc) + 8
    numbers = (start, len(toc), len(document), 1, split_start, len(split), len(split_text))
    footer = skippable(struct.pack("<7Q8s", *numbers, b"GNUlInUx"))
    blob = bytes(writer.blob) + skippable(toc) + skippable(split) + footer
    annotations = {PODMAN + "manifest-checksum": sha256(toc)}
    if annotated:
        annotations[PODMAN + "manifest-position"] = position or ":".join(map(str, numbers[:4]))
        if tar_split:
            annotations[PODMAN + "tarsplit-position"] = ":".join(map(str, numbers[4:]))
    return LazyLayer("zstd-podman", 0, descriptor(OCI + "+zstd", blob, annotations), blob, sha256(bytes(writer.stream)))
