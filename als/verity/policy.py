"""What is to be sealed with fs-verity, and what is believed of it: the setting ``verity``.

"prefer" seals where kernel and file system can and goes on without where they cannot; a digest that was recorded is compared,
but a store that was copied to another disk (where nothing is sealed any more) is still served. "require" serves nothing that
is not held to its digest by the kernel.
"""

from __future__ import annotations

import enum
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from als.errors import KernelError, StoreDamaged
from als.native.files import can_have_verity
from als.native.refusal import Refusal, refusal
from als.native.verity import measure
from als.verity.library import SUPPORT_HINT, cannot_seal

log = logging.getLogger(__name__)

Verify = Callable[[int], None]
"""Given the descriptor of a file that is about to be mounted; raises an AlsError where it must not be."""


class Mode(enum.Enum):
    """The values of the setting."""

    OFF = "off"
    PREFER = "prefer"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class Policy:
    """The setting, for one store."""

    mode: Mode
    root: Path
    """A folder on the store's file system."""

    @property
    def required(self) -> bool:
        return self.mode is Mode.REQUIRE

    def seals(self) -> bool:
        """Whether what is made now gets sealed.

        :raises KernelError: it has to be, and cannot.
        """
        if self.mode is Mode.OFF:
            return False
        try:
            with tempfile.TemporaryFile(dir=self.root) as file:
                possible = can_have_verity(file.fileno())
        except OSError as error:
            # What is to be sealed has no room either, and whoever makes it says so.
            if self.required or refusal(error) is not Refusal.NO_SPACE:
                self.failed(error, str(self.root))
            return False
        if not possible and self.required:
            what = 'fs-verity is required (verity = "require"), and not to be had here'
            raise KernelError(what, where=str(self.root), hint=SUPPORT_HINT)
        return possible

    def failed(self, error: OSError, where: str) -> None:
        """Something could not be sealed: an error where it has to be, else a line in the log.

        :raises KernelError: it has to be.
        """
        refused = cannot_seal(error, str(error.filename or where))
        if self.required:
            raise refused from error
        log.warning("%s", refused)

    def verifier(self, digest: str, where: str) -> Verify | None:
        """What has to be seen of an EROFS image before it is mounted; None: nothing.

        :param digest: what was recorded of the image, in hex; "": it was not sealed.
        :raises KernelError: it would have to be.
        """
        if self.mode is Mode.OFF or (not digest and not self.required):
            return None
        if not digest:
            hint = "`als pull` its image again seals it, where kernel and file system can"
            raise KernelError('it is not sealed, and verity = "require" is set', where=where, hint=hint)

        def verify(fd: int) -> None:
            found = measure(fd)
            if found is None and not self.required:
                return
            if found is None or found.hex() != digest:
                what = "has no fs-verity any more" if found is None else f"has the fs-verity digest {found.hex()}"
                hint = "somebody has replaced it; `als fsck --repair`, and pull its image again"
                raise StoreDamaged(f"the image {what}, not {digest}; it is not mounted", where=where, hint=hint)

        return verify


UNSEALED = Policy(Mode.OFF, Path("/"))
"""Nothing is sealed, nothing is verified."""
