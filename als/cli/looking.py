"""How far images are, asked of the daemon or else seen in the store, and in words."""

from __future__ import annotations

from dataclasses import dataclass

from als.config import Config
from als.control.client import NotHere, reached
from als.model.status import ImageStatus, LayerStatus, LinkStatus, State


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found, and why no daemon was asked ("": one was)."""

    images: tuple[ImageStatus, ...]
    links: tuple[LinkStatus, ...] = ()
    without: str = ""


def look(config: Config, name: str | None = None) -> Looked:
    """How far an image is, or all of them. Without a daemon, how much of lazy layers is here is not known.

    :raises NotFound: there is no such image.
    """
    try:
        with reached(config) as daemon:
            told = daemon.status(name)
            return Looked(told.images, told.links)
    except NotHere as reason:
        without = str(reason)
    # Loaded where nobody else has done it: it takes as long as all the rest.
    from als.service import Service
    from als.service.status import status

    with Service(config) as service:
        return Looked(tuple(status(service, name)), without=without)


def state_text(state: State, percent: int | None) -> str:
    """``lazy (37 %)``."""
    return f"{state} ({percent} %)" if state is State.LAZY and percent is not None else str(state)


def image_state(image: ImageStatus) -> str:
    """The state of an image in words."""
    return state_text(image.state, image.percent)


def layer_state(layer: LayerStatus) -> str:
    """The state of a layer in words."""
    return state_text(layer.state, layer.percent)
