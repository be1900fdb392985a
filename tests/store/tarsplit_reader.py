"""A reader of tar-split files, written from the description of the format."""

from __future__ import annotations

import base64
import gzip
import json
import posixpath
from collections.abc import Callable
from dataclasses import dataclass

Getter = Callable[[bytes], bytes]


def _crc64_table() -> list[int]:
    """Of CRC-64/GO-ISO: reflected, polynomial x^64 + x^4 + x^3 + x + 1."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xD800000000000000 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc64_table()
_CHECKED = 1 << 17
"""Longer contents take this reader seconds; for theirs see what Go computed (tests/service/test_service_tarsplit.py)."""


def crc64(data: bytes) -> bytes:
    value = (1 << 64) - 1
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return (value ^ (1 << 64) - 1).to_bytes(8, "big")


@dataclass(frozen=True)
class Parts:
    """A tar-split file: segments as bytes, files as (name, size, checksum)."""

    parts: list[bytes | tuple[bytes, int, bytes]]

    @classmethod
    def read(cls, file: bytes) -> Parts:
        parts: list[bytes | tuple[bytes, int, bytes]] = []
        for line in gzip.decompress(file).splitlines():
            entry = json.loads(line)
            assert entry["position"] == len(parts)
            payload = base64.b64decode(entry["payload"] or "", validate=True)
            if entry["type"] == 2:
                parts.append(payload)
                continue
            assert entry["type"] == 1
            name = base64.b64decode(entry["name_raw"]) if "name_raw" in entry else entry["name"].encode()
            parts.append((name, entry.get("size", 0), payload))
        return cls(parts)

    @property
    def files(self) -> list[tuple[bytes, int, bytes]]:
        """The files that are not empty."""
        return [part for part in self.parts if not isinstance(part, bytes) and part[1]]

    def stream(self, get: Getter) -> bytes:
        """What WriteOutputTarStream of tar-split makes of it."""
        names = [posixpath.normpath(part[0]) for part in self.parts if not isinstance(part, bytes)]
        assert len(names) == len(set(names)), "tar-split refuses a list that holds a name twice"
        stream = bytearray()
        for part in self.parts:
            if isinstance(part, bytes):
                stream += part
            elif part[1]:
                content = get(part[0])
                assert len(content) == part[1]
                assert len(content) > _CHECKED or crc64(content) == part[2]
                stream += content
        return bytes(stream)
