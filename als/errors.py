"""Every error als raises on purpose.

One tree, so that a caller can be as precise as it needs: ``except AlsError`` at the outermost boundary, a leaf where
something can be done about it. An error says what failed, where, and what the user can do; it knows nothing of errno
(see :mod:`als.fuse.errors`) and nothing of exit codes (see :mod:`als.cli.exitcodes`).
"""

from __future__ import annotations


class AlsError(Exception):
    """Something failed in a way als foresaw.

    :param what: what failed, a phrase without a full stop.
    :param where: the thing it failed on (a reference, digest, path, host and byte range).
    :param hint: what the user can do about it; empty where there is nothing.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(AlsError):
    """A configuration file, ours or one of containers/*, cannot be understood."""


class BadReference(AlsError):
    """A text that does not name an image."""


class PolicyDenied(AlsError):
    """The machine's policy.json rejects the image."""


class NotFound(AlsError):
    """The image, layer or path asked for does not exist where it was looked for."""


class RegistryError(AlsError):
    """A registry could not be reached, or answered with something other than what was asked."""

    temporary: bool = False
    """Whether the same request may well succeed later."""


class RegistryUnavailable(RegistryError):
    """No answer, a broken connection, or a 429/5xx after all retries."""

    temporary = True


class RegistryDenied(RegistryError):
    """The registry wants other credentials than those we have, or refuses us altogether."""


class BadImage(AlsError):
    """An image is malformed, hostile or of a kind that als does not know. Nothing of it was kept."""


class DigestMismatch(BadImage):
    """Bytes are not those that their digest promised."""


class LimitExceeded(BadImage):
    """An image asks for more (entries, bytes, depth) than the set limits allow."""


class Unsupported(BadImage):
    """A valid image in a format or with a feature that als cannot serve."""


class StoreError(AlsError):
    """The store on disk cannot do what was asked."""


class StoreFull(StoreError):
    """No space, inodes or quota left; what had been begun was removed again."""


class StoreDamaged(StoreError):
    """The store holds something that als did not write like that."""


class LockTimeout(StoreError):
    """Another process held a lock for longer than we were willing to wait."""


class KernelError(AlsError):
    """The kernel refused a mount or lacks a feature."""


class MissingLibrary(AlsError):
    """als was built on a machine without a library that this needs."""


class WorkerError(AlsError):
    """An unprivileged worker died, hung, or broke the protocol."""


class Abandoned(AlsError):
    """Nobody waits for the result any more, so it was not brought to an end."""


class DeadlineExceeded(AlsError):
    """Something did not happen in the time it was given."""
