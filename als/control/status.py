"""What the daemon tells of its images over the control socket: messages for each, and one for the ways to the hosts."""

from __future__ import annotations

from als.control.wire import Channel, error_message
from als.errors import AlsError, StoreError
from als.service import Service
from als.service.status import fill, links, status

_LAYERS = 200
"""In one message: an image may have more than a message can hold."""


def answer_status(service: Service, channel: Channel, name: str | None) -> None:
    """Tell how far an image is; None: all of them.

    :raises OSError: nobody takes the answer.
    """
    try:
        images = status(service, name)
    except AlsError as error:
        channel.send(error_message(error))
        return
    except OSError as error:
        channel.send(error_message(_unreadable(service, error)))
        return
    for image in images:
        channel.send({"image": image.to_json() | {"layers": []}})
        layers = [layer.to_json() for layer in image.layers]
        for first in range(0, len(layers), _LAYERS):
            channel.send({"layers": layers[first : first + _LAYERS]})
    channel.send({"links": [link.to_json() for link in links(service)]})


def answer_fill(service: Service, name: str) -> dict[str, object]:
    """Have an image filled in the background; the message that tells for how many layers that was switched on."""
    try:
        return {"filling": fill(service, name)}
    except AlsError as error:
        return error_message(error)
    except OSError as error:
        return error_message(_unreadable(service, error))


def _unreadable(service: Service, error: OSError) -> AlsError:
    return StoreError(f"the store cannot be read: {error.strerror or error}", where=str(error.filename or service.layout.root))
