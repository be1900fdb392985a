"""Builds ``als._crc64``: the CRC-64 of Go's ``hash/crc64.ISO``, which stands in tar-split files for each file's content.

No package of Python's that computes it at the speed of a disk is in Debian or Fedora (``fastcrc`` is on PyPI alone). Its
polynomial has so few terms that neither tables nor special instructions are needed: x^64 = x^4 + x^3 + x + 1, and by squaring
x^512 = x^32 + x^24 + x^8 + 1. What eight words leave to the next eight are shifts, of all eight at once.
"""

from cffi import FFI

CDEF = """
uint64_t als_crc64(uint64_t before, const void *data, size_t length);
"""

SOURCE = r"""
#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Polynomials have their lowest power in the highest bit, as data comes; to multiply by x^n is to shift right by n. */
enum { LANES = 8, BLOCK = 8 * LANES };
typedef uint64_t lanes __attribute__((vector_size(BLOCK)));

/* What has grown over x^63, in `over` as if it began at x^0, times x^64. It has no power above x^59. */
#define REDUCED(over) ((over) ^ (over) >> 1 ^ (over) >> 3 ^ (over) >> 4)

static uint64_t times_x64(uint64_t value)
{
    const uint64_t over = value << 63 ^ value << 61 ^ value << 60;
    return REDUCED(value) ^ REDUCED(over);
}

static uint64_t word(const unsigned char *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return le64toh(value);
}

static uint64_t als_crc64(uint64_t before, const void *data, size_t length)
{
    const unsigned char *next = data;
    uint64_t crc = ~before, over;
    if (length >= 2 * BLOCK) {
        lanes sum, more;
        int n;
        for (n = 0; n < LANES; n++)
            sum[n] = word(next + 8 * n);
        sum[0] ^= crc;
        for (next += BLOCK, length -= BLOCK; length >= BLOCK; next += BLOCK, length -= BLOCK) {
            const lanes high = sum << 56 ^ sum << 40 ^ sum << 32;
            memcpy(&more, next, sizeof more);
#if __BYTE_ORDER == __BIG_ENDIAN
            for (n = 0; n < LANES; n++)
                more[n] = le64toh(more[n]);
#endif
            sum = sum ^ sum >> 8 ^ sum >> 24 ^ sum >> 32 ^ REDUCED(high) ^ more;
        }
        for (n = 0, crc = 0; n < LANES; n++)
            crc = times_x64(crc ^ sum[n]);
    }
    for (; length >= 8; length -= 8, next += 8)
        crc = times_x64(crc ^ word(next));
    for (; length; length--) {
        crc ^= *next++;
        over = crc << 56;
        crc = crc >> 8 ^ REDUCED(over);
    }
    return ~crc;
}
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source("als._crc64", SOURCE)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
