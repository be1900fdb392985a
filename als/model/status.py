"""How far images are: what ``als status`` tells, and what the daemon says of it over the control socket.

A lazy layer is shown to clients before its bytes are here. Only the daemon, which fetches them, knows how many are; everybody
else sees that the layer is lazy, or that it was refused.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from als.errors import BadImage
from als.model.digest import Digest


class State(enum.StrEnum):
    """Of a layer or an image; an image is as far as the layer that is furthest behind."""

    REFUSED = "refused"
    """Its bytes are not what was promised. It is never shown again."""
    MISSING = "missing"
    """Of a layer: it is not in the store."""
    INCOMPLETE = "incomplete"
    """Of an image: a layer is missing."""
    LISTED = "listed"
    """Clients can use it, and none of its bytes are here yet."""
    LAZY = "lazy"
    """Clients use it while its bytes come."""
    COMPLETE = "complete"
    """Every file is here and verified; the DiffID is not."""
    SEALED = "sealed"
    """Its DiffID is verified, and it needs neither network nor daemon any more."""


@dataclass(frozen=True, slots=True)
class LayerStatus:
    """How far a layer is. Bytes and files are None where they are not known."""

    digest: Digest
    """Of the blob."""
    diff_id: Digest
    format: str
    """"" of a layer that is not in the store."""
    state: State
    bytes: int | None = None
    """Of all its files, uncompressed, each content counted once."""
    bytes_here: int | None = None
    files: int | None = None
    files_here: int | None = None
    fetched: int = 0
    """Bytes of the blob that came from a registry since the daemon began to serve the layer."""
    rate: float = 0.0
    """Bytes per second that come now."""
    place: str = ""
    """The host that they come from, or came from last; not always the reference's own: registries redirect."""
    filling: bool | None = None
    """Whether it is filled in the background; None where nothing is left to fill, or no daemon to do it."""
    trouble: str = ""
    """The last error, or why it was refused."""
    troubled: float = 0.0
    """When that was, seconds since the epoch; 0 where that is not known."""

    @property
    def percent(self) -> int | None:
        """How much of its files is here; as :attr:`ImageStatus.percent`."""
        return None if self.bytes is None or self.bytes_here is None else percent(self.bytes_here, self.bytes)

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "digest": str(self.digest), "diff_id": str(self.diff_id), "state": str(self.state)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LayerStatus:
        """The reverse of `to_json`.

        :raises ValueError: it is something else.
        """
        try:
            known = {each.name: value[each.name] for each in fields(cls)}
            known["digest"], known["diff_id"] = Digest.parse(known["digest"]), Digest.parse(known["diff_id"])
            return cls(**known | {"state": State(known["state"])})
        except (KeyError, ValueError, TypeError, AttributeError, BadImage) as error:
            raise ValueError(f"not the status of a layer: {error}") from error


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """How far an image is."""

    digest: Digest
    """Of its manifest."""
    references: tuple[str, ...]
    """What names it; none: only a client's record does."""
    layers: tuple[LayerStatus, ...]
    """From the lowest to the highest."""

    @property
    def state(self) -> State:
        return state_of(self.layers)

    @property
    def name(self) -> str:
        """By which commands know it."""
        return self.references[0] if self.references else str(self.digest)

    @property
    def sizes(self) -> tuple[int, int] | None:
        """Bytes of its layers' files that are here, and of all of them; None where that is not known."""
        known = [(layer.bytes_here, layer.bytes) for layer in self.layers]
        here = sum(each for each, _ in known if each is not None)
        of = sum(each for _, each in known if each is not None)
        return None if any(None in each for each in known) else (here, of)

    @property
    def percent(self) -> int | None:
        """How much of its files is here, rounded down so that 100 means all; None where that is not known."""
        return None if self.sizes is None else percent(*self.sizes)

    @property
    def lazy_layers(self) -> tuple[LayerStatus, ...]:
        """Those of which something is still to come or to be verified."""
        return tuple(each for each in self.layers if each.state in (State.LISTED, State.LAZY, State.COMPLETE))

    def to_json(self) -> dict[str, object]:
        return {
            "digest": str(self.digest),
            "references": list(self.references),
            "state": str(self.state),
            "percent": self.percent,
            "layers": [layer.to_json() for layer in self.layers],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageStatus:
        """The reverse of `to_json`.

        :raises ValueError: it is something else.
        """
        try:
            references = tuple(str(each) for each in value["references"])
            return cls(Digest.parse(value["digest"]), references, tuple(map(LayerStatus.from_json, value["layers"])))
        except (KeyError, TypeError, AttributeError, BadImage) as error:
            raise ValueError(f"not the status of an image: {error}") from error


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """How the way to a registry's host does. Times in seconds, sizes in bytes."""

    host: str
    round_trip: float
    """Until an answer begins; an assumption before the first one did."""
    rate: float
    """Bytes per second that the way has been seen to give; an assumption before any came."""
    waited_for: int
    """Requests in the air because somebody reads what they bring."""
    others: int
    """All other requests in the air."""
    depth: int
    """How many of the others there may be at once."""
    resting: float
    """How long it is still left alone because it failed."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LinkStatus:
        """The reverse of `to_json`.

        :raises ValueError: it is something else.
        """
        try:
            return cls(**{each.name: value[each.name] for each in fields(cls)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the status of a link: {error}") from error


def state_of(layers: Sequence[LayerStatus]) -> State:
    """The state of the image that these layers make."""
    states = {each.state for each in layers}
    if State.REFUSED in states:
        return State.REFUSED
    if State.MISSING in states:
        return State.INCOMPLETE
    if states <= {State.SEALED}:
        return State.SEALED
    if states <= {State.SEALED, State.COMPLETE}:
        return State.COMPLETE
    return State.LISTED if states == {State.LISTED} else State.LAZY


def percent(here: int, of: int) -> int:
    """A share in percent, rounded down; all of nothing is here."""
    return 100 * here // of if of else 100
