"""A checksum that Python's standard library lacks, from the compiled extension ``als._crc64``."""

from __future__ import annotations

try:
    from als._crc64 import ffi, lib
except ImportError as error:
    raise ImportError(
        "the extension als._crc64 is not built; in a checkout run `pip install -e .` (needs gcc, python3-dev)"
    ) from error

__all__ = ["crc64_iso"]


def crc64_iso(data: bytes | bytearray | memoryview, before: int = 0) -> int:
    """The CRC-64 that Go calls ISO (``hash/crc64``). Other threads run meanwhile.

    :param before: that of the bytes before these.
    """
    buffer = ffi.from_buffer(data)
    return lib.als_crc64(before, buffer, len(buffer))
