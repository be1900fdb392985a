"""xxHash, 32 bits: the hash behind EROFS' filter of xattr names.

Source: the xxHash specification (doc/xxhash_spec.md of Cyan4973/xxHash). A library would be faster, but what is hashed is a
handful of distinct names per image, so it would be a dependency for nothing.
"""

from __future__ import annotations

from struct import Struct

_MASK = 0xFFFFFFFF
_PRIME1, _PRIME2, _PRIME3, _PRIME4, _PRIME5 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1
_STRIPE = Struct("<4I")
_WORD = Struct("<I")


def _rotate(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> (32 - bits)) & _MASK


def xxh32(data: bytes, seed: int) -> int:
    """The hash of `data`, an unsigned 32-bit number."""
    position, end = 0, len(data)
    if end >= 16:
        lanes = [seed + _PRIME1 + _PRIME2, seed + _PRIME2, seed, seed - _PRIME1]
        while position + 16 <= end:
            words = _STRIPE.unpack_from(data, position)
            lanes = [_rotate(lane + word * _PRIME2, 13) * _PRIME1 for lane, word in zip(lanes, words, strict=True)]
            position += 16
        value = sum(_rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))
    else:
        value = seed + _PRIME5
    value += end
    while position + 4 <= end:
        value = _rotate(value + _WORD.unpack_from(data, position)[0] * _PRIME3, 17) * _PRIME4
        position += 4
    for byte in data[position:]:
        value = _rotate(value + byte * _PRIME5, 11) * _PRIME1
    value &= _MASK
    value = (value ^ value >> 15) * _PRIME2 & _MASK
    value = (value ^ value >> 13) * _PRIME3 & _MASK
    return value ^ value >> 16
