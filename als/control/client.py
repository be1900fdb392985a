"""The command line's side of the control socket.

Whoever is asked has to come to the result that the command itself would: a daemon of the same version, with the same settings,
that sees the same files. Where that is in doubt the answer is "not here", and the command does the work itself.

This module and what it imports are loaded before anything else is, and therefore few.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from als import __version__
from als.config import Config
from als.control.peer import peer_of
from als.control.wire import ALIVE_SECONDS, MAX_MESSAGE, NAME, PROTOCOL, Channel, error_of, settings
from als.errors import AlsError

if TYPE_CHECKING:
    from als.model.status import ImageStatus, LinkStatus

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 12 * ALIVE_SECONDS
_PATHS = (
    "HOME",
    "REGISTRY_AUTH_FILE",
    "DOCKER_CONFIG",
    "CONTAINERS_REGISTRIES_CONF",
    "REGISTRIES_CONFIG_PATH",
    "CONTAINERS_REGISTRIES_CONF_DIR",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINER_CONFIG",
    "CONTAINER_CONFIG_DIR",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
)
"""Variables that name files; a relative one means another file to a process in another folder."""

Event = Callable[[Mapping[str, Any]], None]


class NotHere(Exception):
    """The daemon leaves this request to the process that made it."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull is told to have brought."""

    digest: str
    """Of the image's manifest."""
    layers_only: str
    """Why it is not listed as an image; "" where it is."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the daemon says of images, and of the ways to the hosts that they come from."""

    images: tuple[ImageStatus, ...]
    links: tuple[LinkStatus, ...]


class Daemon:
    """A daemon that answered and is like us."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def pull(self, reference: str, event: Event | None = None) -> Pulled:
        """Have an image pulled as if this process did it.

        :param event: told of each layer's progress; None: nobody wants to know.
        :raises NotHere: it is for this process to do; nothing has happened.
        :raises AlsError: what the pull failed with, or the daemon has ended.
        """
        variables = dict(os.environ)
        request = {"op": "pull", "reference": reference, "progress": event is not None, "environment": variables}
        try:
            for message in self._answers(request):
                if "elsewhere" in message:
                    raise NotHere(str(message["elsewhere"]))
                if "digest" in message:
                    return Pulled(str(message["digest"]), str(message["layers_only"]))
                if event is not None and "layer" in message:
                    event(message)
        except (OSError, ValueError, KeyError) as error:
            raise _lost(reference) from error
        raise _lost(reference)

    def status(self, name: str | None = None) -> Told:
        """How far an image is, or all of them (:func:`als.service.status.status`).

        :raises NotFound: there is no such image.
        :raises AlsError: the store is damaged, or the daemon has ended.
        """
        from als.model.status import ImageStatus, LinkStatus

        images: list[dict[str, Any]] = []
        try:
            for message in self._answers({"op": "status", "image": name}):
                if "image" in message:
                    images.append({**message["image"], "layers": []})
                if "layers" in message:
                    images[-1]["layers"] += message["layers"]
                if "links" in message:
                    return Told(tuple(map(ImageStatus.from_json, images)), tuple(map(LinkStatus.from_json, message["links"])))
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise _ended(name) from error
        raise _ended(name)

    def fill(self, name: str) -> int:
        """Have the rest of an image fetched in the background; returns how many layers that was switched on for.

        :raises NotFound: there is no such image.
        :raises AlsError: the daemon has ended.
        """
        try:
            for message in self._answers({"op": "fill", "image": name}):
                if "filling" in message:
                    return int(message["filling"])
        except (OSError, ValueError, TypeError) as error:
            raise _ended(name) from error
        raise _ended(name)

    def _answers(self, request: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        """What the daemon says to a request, until it ends; whoever asks knows which message is the last.

        :raises AlsError: what the request failed with.
        """
        self._channel.send(request)
        while (message := self._channel.receive(_SILENCE_SECONDS)) is not None:
            if "error" in message:
                raise error_of(message)
            yield message


def portable(references: tuple[str, ...], variables: Mapping[str, str]) -> bool:
    """Whether references and environment mean the same to a process in another folder."""
    if any(variables.get(name) and not variables[name].startswith("/") for name in _PATHS):
        return False
    if sum(len(name) + len(value) for name, value in variables.items()) > MAX_MESSAGE // 8:
        # JSON may make six characters of one.
        return False
    parts = [text.partition(":") for text in references]
    return all(path.startswith("/") for kind, _, path in parts if kind in ("oci", "oci-archive"))


@contextlib.contextmanager
def daemon(config: Config) -> Iterator[Daemon | None]:
    """The daemon of this RUN, connected; None: there is none that could do our work."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(reached(config))
        except NotHere:
            found = None
        yield found


@contextlib.contextmanager
def reached(config: Config) -> Iterator[Daemon]:
    """The same for what a daemon alone can do.

    :raises NotHere: why there is none, in words.
    """
    with _connect(config.run) as connection:
        channel = Channel(connection)
        _check_alike(channel, config)
        yield Daemon(channel)


def _connect(run: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_CONNECT_SECONDS)
        folder = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The address of a socket has 108 bytes at most, whatever the folder's name.
            connection.connect(f"/proc/self/fd/{folder}/{NAME}")
        finally:
            os.close(folder)
        # The listener gets our environment: it must be somebody who could read it anyway.
        if peer_of(connection).trusted:
            return connection
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connection.close()
        raise NotHere("no daemon runs") from error
    except OSError as error:
        connection.close()
        raise NotHere(f"the daemon cannot be asked: {error.strerror or error}") from error
    connection.close()
    raise NotHere("the daemon belongs to another user")


def _check_alike(channel: Channel, config: Config) -> None:
    try:
        hello = channel.receive(_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise NotHere("the daemon does not answer") from error
    if hello is None:
        raise NotHere("the daemon does not serve this process: it sees another machine, or too many ask")
    if (hello.get("protocol"), hello.get("version")) != (PROTOCOL, __version__):
        raise NotHere(f"the daemon that runs is of another version, {str(hello.get('version'))[:40]!r}: restart it")
    ours, theirs = settings(config), hello.get("settings")
    if theirs != ours:
        known = theirs if isinstance(theirs, dict) else {}
        different = [name for name, value in ours.items() if known.get(name) != value]
        raise NotHere(f"the daemon that runs has other settings: {', '.join(different)}")


def _lost(reference: str) -> AlsError:
    hint = "pull again: what is complete is kept, and without a daemon als does it itself"
    return AlsError("the daemon ended, or was stopped, before the image was complete", where=reference, hint=hint)


def _ended(name: str | None) -> AlsError:
    return AlsError("the daemon ended, or was stopped, before it answered", where=name or "", hint="start it again")
