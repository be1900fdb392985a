"""``als wait``: until all of an image is here."""

from __future__ import annotations

import sys
import time
from typing import Protocol

import click

from als.cli.looking import image_state
from als.cli.progress import Display, display
from als.config import Config
from als.control.client import NotHere, Told, reached
from als.errors import AlsError, BadImage, DeadlineExceeded, NotFound
from als.model.digest import Digest
from als.model.manifest import Descriptor
from als.model.status import ImageStatus, LayerStatus, State

_POLL_SECONDS = 0.5
_OPENING_SECONDS = 60.0
"""How long a daemon may take to begin to serve what was lazy before it started."""


@click.command()
@click.argument("image")
@click.option("--timeout", type=click.FloatRange(0), help="Seconds after which to give up; as long as it takes if not given.")
@click.option("--no-fill", is_flag=True, help="Only wait, also where the background fill is off.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@click.pass_obj
def command(config: Config, image: str, timeout: float | None, no_fill: bool, quiet: bool) -> None:
    """Wait until every layer of an image is here, verified, and needs neither network nor daemon any more.

    Where the background fill is off, it is switched on for this image, and stays on whether or not somebody waits. A layer
    that is complete, but would cost much to be verified as a whole, is verified now.

    Fails if a layer turns out not to be what was promised, if time is up, and if no daemon runs to bring what is missing.
    """
    end = None if timeout is None else time.monotonic() + timeout
    try:
        with reached(config) as daemon:
            _wait(Awaited(daemon, image, end), fills=config.background, fill=not no_fill, quiet=quiet)
    except NotHere as reason:
        _without(config, image, str(reason))


class Teller(Protocol):
    """What a wait needs of a daemon (:class:`als.control.client.Daemon`)."""

    def status(self, name: str) -> Told: ...

    def fill(self, name: str) -> int: ...


class Awaited:
    """An image that is asked for again and again."""

    def __init__(self, daemon: Teller, name: str, end: float | None) -> None:
        self._daemon = daemon
        self._name = name
        self._end = end
        self._opened = time.monotonic()
        """When the daemon last served all that is lazy."""

    def look(self) -> ImageStatus:
        """
        :raises BadImage: a layer was refused.
        :raises NotFound: the image, or a layer of it, is not in the store.
        :raises DeadlineExceeded: the daemon does not serve a lazy layer.
        """
        (found,) = self._daemon.status(self._name).images
        _check(found)
        closed = [layer for layer in found.layers if layer.state is State.LAZY and layer.bytes is None]
        now = time.monotonic()
        if not closed:
            self._opened = now
        elif now - self._opened > _OPENING_SECONDS:
            where = f"{found.name} {closed[0].digest}"
            raise DeadlineExceeded(
                "the daemon does not serve the layer", where=where, hint="its log says why; pull the image anew"
            )
        return found

    def fill(self) -> None:
        self._daemon.fill(self._name)

    def pause(self, now: ImageStatus) -> None:
        """
        :raises DeadlineExceeded: time is up.
        """
        left = _POLL_SECONDS if self._end is None else self._end - time.monotonic()
        if left <= 0:
            raise _too_late(now)
        time.sleep(min(_POLL_SECONDS, left))


def _wait(awaited: Awaited, *, fills: bool, fill: bool, quiet: bool) -> None:
    """
    :param fills: whether the daemon fills lazy layers by itself, sooner or later.
    :param fill: whether it is to do so for this image in any case.
    """
    found = awaited.look()
    if fill and found.state is not State.SEALED:
        awaited.fill()
    if not quiet and not fills and any(layer.filling is False for layer in found.layers):
        what = "it is switched on for this image" if fill else "what nobody reads does not come"
        click.echo(f"the background fill is off: {what}", err=True)
    if quiet:
        while found.state is not State.SEALED:
            awaited.pause(found)
            found = awaited.look()
        return
    with display(sys.stderr.isatty()) as shown:
        progress = Shown(shown)
        progress.show(found)
        while found.state is not State.SEALED:
            awaited.pause(found)
            found = awaited.look()
            progress.show(found)


class Shown:
    """Shows how far layers are; bytes are those of their files."""

    def __init__(self, shown: Display) -> None:
        self._shown = shown
        self._at: dict[Digest, int] = {}
        self._sealed: set[Digest] = set()

    def show(self, image: ImageStatus) -> None:
        for layer in image.layers:
            if layer.digest not in self._sealed:
                self._show(layer)

    def _show(self, layer: LayerStatus) -> None:
        each = Descriptor("", layer.digest, layer.bytes or 0)
        begun = layer.digest in self._at
        if layer.state is State.SEALED:
            self._sealed.add(layer.digest)
        elif not begun:
            self._shown.begins(each)
            begun = True
        if begun:
            here = layer.bytes_here or 0
            self._shown.advances(each, here - self._at.get(layer.digest, 0))
            self._at[layer.digest] = here
        if layer.state is State.SEALED:
            self._shown.done(each, fetched=begun)


def _without(config: Config, name: str, reason: str) -> None:
    """What is sealed needs no daemon."""
    from als.service import Service
    from als.service.status import status

    with Service(config) as service:
        (found,) = status(service, name)
    _check(found)
    if found.state is not State.SEALED:
        hint = "without a daemon nothing more of it comes: start `als serve`"
        raise AlsError(f"{reason}, and the image is {image_state(found)}", where=name, hint=hint)


def _check(image: ImageStatus) -> None:
    for layer in image.layers:
        if layer.state is State.REFUSED:
            where = f"{image.name} {layer.digest}"
            raise BadImage(f"the layer was refused: {layer.trouble}", where=where, hint="nothing of it is shown any more")
        if layer.state is State.MISSING:
            where = f"{image.name} {layer.digest}"
            raise NotFound("the layer is not in the store, and nobody fetches it", where=where, hint="`als pull` the image")


def _too_late(image: ImageStatus) -> DeadlineExceeded:
    troubles = [layer.trouble for layer in image.lazy_layers if layer.trouble]
    told = f"; the last trouble was: {troubles[-1]}" if troubles else ""
    hint = "it goes on without anybody waiting; `als status` shows how"
    return DeadlineExceeded(f"time is up, and the image is {image_state(image)}{told}", where=image.name, hint=hint)
