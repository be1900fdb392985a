"""Digests: ``algorithm:hex`` as the OCI image specification (descriptor.md, "Digests") has them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from als.errors import BadImage

_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


class Hasher(Protocol):
    """What hashlib's objects offer."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A checked digest; equal digests are equal objects, and ``str()`` gives the wire form back."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:...``.

        :raises BadImage: it is not a digest of an algorithm that the OCI specification registers.
        """
        algorithm, _, hexadecimal = text.partition(":")
        if _HEX_LENGTH.get(algorithm) != len(hexadecimal) or not _HEX.fullmatch(hexadecimal):
            raise BadImage("not a digest", where=repr(text[:160]))
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The sha256 digest of some bytes."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    @classmethod
    def sha256(cls, raw: bytes) -> Digest:
        """Wrap 32 raw bytes of a sha256."""
        if len(raw) != 32:
            raise ValueError(f"a sha256 has 32 bytes, not {len(raw)}")
        return cls("sha256", raw.hex())

    @property
    def raw(self) -> bytes:
        """The digest's bytes, most significant first as printed."""
        return bytes.fromhex(self.hex)

    def hasher(self) -> Hasher:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
