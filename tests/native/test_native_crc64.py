"""The checksum, beside one that is computed bit by bit."""

from __future__ import annotations

import pytest

from als.native.crc64 import crc64_iso
from tests.lazy.site import noise
from tests.store.tarsplit_reader import crc64


def test_the_check_value() -> None:
    assert crc64_iso(b"123456789") == 0xB90956C775A41001
    assert crc64_iso(b"") == 0


@pytest.mark.parametrize("size", [1, 7, 8, 9, 63, 64, 127, 128, 129, 191, 192, 200, 4096, 4099])
def test_lengths_and_kinds_of_buffers(size: int) -> None:
    data = noise(size, size)
    wanted = int.from_bytes(crc64(data), "big")
    assert crc64_iso(data) == crc64_iso(bytearray(data)) == crc64_iso(memoryview(data)) == wanted


@pytest.mark.parametrize("first", [0, 1, 8, 200, 872, 873, 999, 1000])
def test_it_goes_on_where_it_ended(first: int) -> None:
    data = noise(1000, 3)
    assert crc64_iso(memoryview(data)[first:], crc64_iso(data[:first])) == crc64_iso(data)
