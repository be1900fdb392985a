"""Builds ``als._fsverity``: libfsverity, which computes fs-verity digests in user space and signs them.

Optional: where the library's headers are missing, everything else is built all the same (``optional``), and
:mod:`als.verity.library` says what is missing when something of it is wanted. Nothing in the way of a pull needs it: there the
kernel computes the digests (:mod:`als.native.verity`).

The library reads a file through a callback. It is in C here, so that the GIL stays released from the first byte to the last.
"""

from cffi import FFI

CDEF = """
int als_fsverity_of_fd(int fd, uint64_t size, unsigned char *digest);
int als_fsverity_of_bytes(const void *data, uint64_t size, unsigned char *digest);
int als_fsverity_sign(const unsigned char *digest, const char *key, const char *certificate,
                      unsigned char **signature, size_t *size);
int als_fsverity_enable(int fd, const unsigned char *signature, size_t size);
void als_fsverity_free(unsigned char *signature);
"""

SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <libfsverity.h>

enum { DIGEST_SIZE = 32 };

struct als_file { int fd; off_t offset; };
struct als_bytes { const unsigned char *data; };

static int als_read_fd(void *context, void *buffer, size_t count)
{
    struct als_file *file = context;
    unsigned char *to = buffer;
    while (count) {
        ssize_t got = pread(file->fd, to, count, file->offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -EIO; /* EIO: the file has become shorter. */
        to += got;
        count -= (size_t)got;
        file->offset += got;
    }
    return 0;
}

static int als_read_bytes(void *context, void *buffer, size_t count)
{
    struct als_bytes *bytes = context;
    memcpy(buffer, bytes->data, count);
    bytes->data += count;
    return 0;
}

static struct libfsverity_merkle_tree_params als_parameters(uint64_t size)
{
    struct libfsverity_merkle_tree_params parameters;
    memset(&parameters, 0, sizeof parameters);
    parameters.version = 1;
    parameters.hash_algorithm = FS_VERITY_HASH_ALG_SHA256;
    parameters.block_size = 4096;
    parameters.file_size = size;
    return parameters;
}

static int als_result(int result)
{
    errno = -result;
    return result < 0 ? -1 : 0;
}

static int als_digest(void *context, libfsverity_read_fn_t read_some, uint64_t size, unsigned char *digest)
{
    struct libfsverity_merkle_tree_params parameters = als_parameters(size);
    struct libfsverity_digest *found = NULL;
    int result = libfsverity_compute_digest(context, read_some, &parameters, &found);
    if (result == 0)
        memcpy(digest, found->digest, DIGEST_SIZE);
    free(found);
    return als_result(result);
}

static int als_fsverity_of_fd(int fd, uint64_t size, unsigned char *digest)
{
    struct als_file file = { fd, 0 };
    return als_digest(&file, als_read_fd, size, digest);
}

static int als_fsverity_of_bytes(const void *data, uint64_t size, unsigned char *digest)
{
    struct als_bytes bytes = { data };
    return als_digest(&bytes, als_read_bytes, size, digest);
}

static int als_fsverity_sign(const unsigned char *digest, const char *key, const char *certificate,
                             unsigned char **signature, size_t *size)
{
    struct libfsverity_signature_params parameters;
    struct libfsverity_digest *signed_digest = calloc(1, sizeof *signed_digest + DIGEST_SIZE);
    int result;
    if (!signed_digest)
        return -1;
    signed_digest->digest_algorithm = FS_VERITY_HASH_ALG_SHA256;
    signed_digest->digest_size = DIGEST_SIZE;
    memcpy(signed_digest->digest, digest, DIGEST_SIZE);
    memset(&parameters, 0, sizeof parameters);
    parameters.keyfile = key;
    parameters.certfile = certificate;
    result = libfsverity_sign_digest(signed_digest, &parameters, signature, size);
    free(signed_digest);
    return als_result(result);
}

static int als_fsverity_enable(int fd, const unsigned char *signature, size_t size)
{
    struct libfsverity_merkle_tree_params parameters = als_parameters(0);
    return als_result(libfsverity_enable_with_sig(fd, &parameters, size ? signature : NULL, size));
}

static void als_fsverity_free(unsigned char *signature) { free(signature); }
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source("als._fsverity", SOURCE, libraries=["fsverity"], optional=True)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
