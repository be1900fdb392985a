"""Who looks on while an image is pulled."""

from __future__ import annotations

from typing import Protocol

from als.model.manifest import Descriptor


class Progress(Protocol):
    """Told what happens to each layer of a pull; called from several threads."""

    def begins(self, layer: Descriptor) -> None:
        """Its blob is being fetched."""
        ...

    def advances(self, layer: Descriptor, count: int) -> None:
        """So many more bytes of it have arrived."""
        ...

    def done(self, layer: Descriptor, *, fetched: bool) -> None:
        """It is in the store; `fetched` is False where nothing had to be fetched for that."""
        ...


class Silent:
    """Progress that nobody looks at."""

    def begins(self, layer: Descriptor) -> None:
        pass

    def advances(self, layer: Descriptor, count: int) -> None:
        pass

    def done(self, layer: Descriptor, *, fetched: bool) -> None:
        pass
