"""What the scheduler remembers: blobs with the state of their units, and requests in the air."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from als.lazy.link import Link, Pause

ABSENT, IN_THE_AIR, HERE, SPOILED = 0, 1, 2, 3
"""What a unit is."""
UNWANTED = 255


class Want(enum.IntEnum):
    """Why a unit is wanted; the least comes first."""

    DEMAND = 0
    """A reader waits for it."""
    GATE = 1
    """A few bytes that will tell what else is needed soon."""
    AHEAD = 2
    """A reader who reads from front to back will ask for it next."""
    PREFETCH = 3
    """It is likely to be needed soon."""
    BACKGROUND = 4
    """The layer is to be complete some day."""


QUEUED = (Want.DEMAND, Want.GATE, Want.AHEAD, Want.PREFETCH)


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request to be made: `length` bytes from `offset` on."""

    number: int
    blob: str
    want: Want
    offset: int
    length: int
    units: tuple[int, ...]
    """What is wanted of these bytes, in order; whatever else comes is to be thrown away."""
    whole: bool = False
    """The server has no ranges: the request is for all of the blob."""


@dataclass(slots=True)
class Blob:
    key: str
    link: Link
    starts: Sequence[int]
    ends: Sequence[int]
    state: bytearray
    level: bytearray
    """Of each unit the class in which it is wanted, `UNWANTED` where it is not (or in the background only)."""
    queues: tuple[deque[tuple[int, int]], ...] = field(default_factory=lambda: tuple(deque() for _ in QUEUED))
    """Of each class but the background units in the order in which they were asked for, with a number that tells it."""
    background: bool = False
    cursor: int = 0
    """Before it nothing is absent."""
    ranged: bool = True
    in_the_air: int = 0
    pause: Pause = field(default_factory=Pause)
    spoiled: dict[int, Pause] = field(default_factory=dict)
    """Units that came and were wrong: left alone for a while, each on its own."""


@dataclass(slots=True)
class Flight:
    fetch: Fetch
    want: Want
    asked: float
    units: dict[int, None]
    """What is still to come of it, in order."""
    position: int
    """Where in the blob the next bytes are from."""
    began: bool = False
    held_since: float | None = None


def fresh(blob: Blob, want: Want) -> deque[tuple[int, int]]:
    """The queue of a class without what has come, was put into another one, or is not wanted any more."""
    queue = blob.queues[want]
    while queue and not (blob.state[queue[0][1]] == ABSENT and blob.level[queue[0][1]] == want):
        queue.popleft()
    return queue


def blocked_until(blob: Blob, want: Want) -> float:
    """When a blob may be asked for again after failures."""
    if want is Want.DEMAND:
        return max(blob.pause.eager_until, blob.link.pause.eager_until)
    return max(blob.pause.until, blob.link.pause.until)
