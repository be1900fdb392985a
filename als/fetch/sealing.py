"""The sealing of one layer while it is made: its objects as they arrive, then its image."""

from __future__ import annotations

from als.store.layers import Staging
from als.store.sealing import seal_file, seal_forest
from als.verity.policy import Policy


class Sealing:
    """For one layer. It is sealed as a whole or, where the policy allows that, not at all.

    :raises KernelError: it has to be sealed, and cannot.
    """

    def __init__(self, policy: Policy, staging: Staging) -> None:
        self._policy = policy
        self._staging = staging
        self.on = policy.seals()
        """False: nothing is sealed, or not any more."""
        self.digests: dict[bytes, bytes] = {}
        """fs-verity digests by sha256, of all that was sealed so far."""

    def objects(self) -> None:
        """Seal what the forest holds by now. It should have reached the disk; others may add to it meanwhile.

        :raises KernelError: it has to be, and cannot.
        :raises StoreDamaged: the store had an object that is none.
        """
        if not self.on:
            return
        forest = self._staging.forest
        new = [sha256 for sha256 in list(forest.sizes) if sha256 not in self.digests]
        try:
            self.digests.update(seal_forest(forest.path, new, forest.staged))
        except OSError as error:
            self._give_up(error)

    def image(self) -> str:
        """Seal the EROFS image; returns its digest in hex, "" where it is not sealed.

        :raises KernelError: it has to be, and cannot.
        """
        if not self.on:
            return ""
        try:
            return seal_file(self._staging.image).hex()
        except OSError as error:
            self._give_up(error)
            return ""

    def _give_up(self, error: OSError) -> None:
        self.on = False
        self.digests.clear()
        self._policy.failed(error, str(self._staging.path))
