"""What a line of the log is about, beside its words: fields by which a journal can be searched."""

from __future__ import annotations

from collections.abc import Mapping

ATTRIBUTE = "als_fields"
"""The attribute of a log record that has them."""


def about(event: str = "", *, image: object = "", layer: object = "", host: str = "") -> dict[str, Mapping[str, str]]:
    """The ``extra`` argument of a logging call.

    :param event: one word for what happened, where it is worth to be found: pulled, lazy, sealed, refused ...
    :param image: the reference.
    :param layer: the blob's digest.
    :param host: of the registry.
    """
    named = {"EVENT": event, "IMAGE": str(image), "LAYER": str(layer), "HOST": host}
    return {ATTRIBUTE: {name: value for name, value in named.items() if value}}
