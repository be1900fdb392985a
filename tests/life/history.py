"""What als said was done while a disk was recorded, and so what a power cut must not take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

FOREVER = 1 << 62


@dataclass
class Promise:
    """Something that als said was done: at every cut between two positions it must hold."""

    reference: str
    since: int
    until: int = FOREVER


@dataclass
class History:
    """What was promised of images, and of counts of clients, while the disk was recorded."""

    images: list[Promise] = field(default_factory=list)
    counts: list[tuple[int, int, int]] = field(default_factory=list)
    """Begin and end of a change, and the count after it."""

    def begins(self, reference: str, position: int) -> None:
        """From here on an image is there."""
        self.images.append(Promise(reference, position))

    def ends(self, reference: str, position: int) -> None:
        """From here on it may be gone."""
        for each in self.images:
            if each.reference == reference and each.until == FOREVER:
                each.until = position

    def promised(self, cut: int) -> set[str]:
        """References that were pulled, and not removed since."""
        return {each.reference for each in self.images if each.since <= cut < each.until}

    def possible_counts(self, cut: int) -> set[int]:
        """What a count may be: certain where no change was under way."""
        done = [count for _, end, count in self.counts if end <= cut]
        return {*(done[-1:] or [0]), *(count for begin, end, count in self.counts if begin <= cut < end)}


def policy(home: Path) -> None:
    """A user whose policy takes any image, so that the image stores list what he pulls."""
    folder = home / ".config" / "containers"
    folder.mkdir(parents=True)
    (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
