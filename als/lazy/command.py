"""What an image's configuration says of the process that its containers start."""

from __future__ import annotations

from dataclasses import dataclass

from als.model.document import Fields, parse_object
from als.model.limits import DEFAULT_LIMITS, Limits

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What podman and CRI-O give to containers whose image sets none."""


@dataclass(frozen=True, slots=True)
class Command:
    """The first process of a container, as far as the image decides; all text is bytes, as in the kernel."""

    arguments: tuple[bytes, ...]
    """The entrypoint and then the command; the first is the program."""
    path: tuple[bytes, ...]
    """The folders in which programs without a slash are looked for."""
    folder: bytes = b"/"
    """Where it starts."""
    library_path: bytes = b""
    """``LD_LIBRARY_PATH``."""
    preload: tuple[bytes, ...] = ()
    """``LD_PRELOAD``: libraries to be loaded into every program."""
    locale: bytes = b""
    """Of character types: ``LC_ALL``, ``LC_CTYPE`` or ``LANG``."""


def command_of(config: bytes, limits: Limits = DEFAULT_LIMITS) -> Command:
    """The command of an image's configuration (OCI image specification, config.md).

    :raises BadImage: the configuration is malformed.
    """
    whole = parse_object(config, what="image configuration", limit=limits.config_bytes)
    fields = whole.optional_child("config") or Fields({}, "image configuration")
    variables = dict(text.partition("=")[::2] for text in fields.texts("Env", required=False))
    arguments = (*fields.texts("Entrypoint", required=False), *fields.texts("Cmd", required=False))
    return Command(
        tuple(each.encode() for each in arguments),
        tuple(each.encode() or b"." for each in variables.get("PATH", _DEFAULT_PATH).split(":")),
        b"/" + fields.text("WorkingDir", "").encode().strip(b"/"),
        variables.get("LD_LIBRARY_PATH", "").encode(),
        tuple(variables.get("LD_PRELOAD", "").replace(":", " ").encode().split()),
        next(filter(None, map(variables.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "").encode(),
    )
