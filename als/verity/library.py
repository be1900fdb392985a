"""fs-verity digests and signatures by libfsverity, without the kernel's help.

The digests are the same that the kernel computes: SHA-256, blocks of 4,096 bytes, no salt; 32 bytes. Who only wants to know
what a sealed file is held to asks the kernel (:func:`als.native.verity.measure`), which reads nothing for that.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

from als.errors import KernelError, MissingLibrary, NotFound
from als.native.extension import check
from als.native.refusal import Refusal, refusal
from als.native.verity import DIGEST_SIZE, measure


def extension() -> ModuleType:
    """The compiled extension.

    :raises MissingLibrary: als was built without it.
    """
    try:
        return importlib.import_module("als._fsverity")
    except ImportError as error:
        hint = "install libfsverity-dev (Debian) or fsverity-utils-devel (Fedora), and als again; or switch fs-verity on"
        raise MissingLibrary("als was built without libfsverity, which computes fs-verity digests", hint=hint) from error


def digest_of(data: bytes | bytearray | memoryview) -> bytes:
    """The fs-verity digest that a file with this content has.

    :raises MissingLibrary: see :func:`extension`.
    """
    library = extension()
    digest = library.ffi.new("unsigned char[]", DIGEST_SIZE)
    check(library.lib.als_fsverity_of_bytes(library.ffi.from_buffer(data), len(data), digest))
    return bytes(digest)


def digest_of_fd(fd: int) -> bytes:
    """The digest of an open file's content, whether it is sealed or not; reads all of it, and releases the GIL.

    :raises MissingLibrary: see :func:`extension`.
    :raises OSError: it cannot be read; EIO also where it got shorter in the meantime.
    """
    library = extension()
    digest = library.ffi.new("unsigned char[]", DIGEST_SIZE)
    check(library.lib.als_fsverity_of_fd(fd, os.fstat(fd).st_size, digest))
    return bytes(digest)


def known_or_computed(path: str | os.PathLike[str]) -> bytes:
    """A file's digest: from the kernel if the file is sealed, else by reading it.

    :raises MissingLibrary: it has to be computed; see :func:`extension`.
    :raises OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return measure(fd) or digest_of_fd(fd)
    finally:
        os.close(fd)


def sign(digest: bytes, key: Path, certificate: Path) -> bytes:
    """A signature of a digest, PKCS#7 in DER, as the kernel checks it (fs.verity.require_signatures) and other programs can.

    :param key: a private key, PEM.
    :param certificate: its X.509 certificate, PEM.
    :raises NotFound: there is no such file.
    :raises KernelError: the key or the certificate is none, or they do not belong together.
    :raises MissingLibrary: see :func:`extension`.
    """
    if len(digest) != DIGEST_SIZE:
        raise ValueError(f"an fs-verity digest has {DIGEST_SIZE} bytes, not {len(digest)}")
    for path in (key, certificate):
        if not path.is_file():
            raise NotFound("no such file", where=str(path))
    library = extension()
    signature, size = library.ffi.new("unsigned char **"), library.ffi.new("size_t *")
    try:
        check(library.lib.als_fsverity_sign(digest, os.fsencode(key), os.fsencode(certificate), signature, size))
    except OSError as error:
        hint = "both have to be PEM, and belong together"
        raise KernelError(
            f"libfsverity cannot sign with it: {error.strerror}", where=f"{key}, {certificate}", hint=hint
        ) from error
    try:
        return bytes(library.ffi.buffer(signature[0], size[0]))
    finally:
        library.lib.als_fsverity_free(signature[0])


def enable(fd: int, signature: bytes = b"") -> bytes:
    """Switch fs-verity on for a file that is open for reading, with a signature that the kernel checks if it has its keyring.

    :returns: the digest.
    :raises KernelError: the kernel or the file system cannot, somebody writes to the file, or the signature is refused.
    :raises MissingLibrary: see :func:`extension`.
    """
    try:
        check(extension().lib.als_fsverity_enable(fd, signature, len(signature)))
        digest = measure(fd)
    except OSError as error:
        raise cannot_seal(error, f"descriptor {fd}") from error
    assert digest is not None
    return digest


def cannot_seal(error: OSError, where: str) -> KernelError:
    """What it means that a file could not be sealed, and what can be done."""
    hints = {
        Refusal.UNSUPPORTED: SUPPORT_HINT,
        Refusal.BUSY: "somebody has the file open for writing, or is sealing it",
        Refusal.NOT_PERMITTED: "run as root",
        Refusal.INVALID: "the file system's blocks have to be of 4,096 bytes",
        Refusal.BAD_MESSAGE: "it has fs-verity with other parameters than als's: SHA-256, blocks of 4,096 bytes, no salt",
    }
    return KernelError(f"cannot be sealed with fs-verity: {error.strerror}", where=where, hint=hints.get(refusal(error), ""))


SUPPORT_HINT = "needs a kernel with CONFIG_FS_VERITY, and ext4 after `tune2fs -O verity DEVICE`, or btrfs"
