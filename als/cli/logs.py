"""Where the log goes: to the journal with fields, where standard error leads there, and to standard error as lines elsewhere.

Whatever way it goes, secrets are taken out of a line first: no part of als is to log any, but an error of a library may have a
whole URL in it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
_LINE = "als: %(levelname)s: %(name)s: %(message)s"
_SECRETS = (
    (re.compile(r"(\bhttps?://)[^/\s@]+@"), r"\1"),
    (re.compile(r"(\bhttps?://[^\s?#]+)\?[^\s\"'<>]*"), r"\1?..."),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9+/=._~-]{8,}"), r"\1 ..."),
)


def redacted(text: str) -> str:
    """Without user names and passwords in URLs, query strings (of signed URLs), and values of Authorization headers."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class Redacting(logging.Formatter):
    """A formatter whose lines have been through :func:`redacted`."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def leads_to_journal(environment: Mapping[str, str], fd: int = 2) -> bool:
    """Whether a descriptor is the one that systemd connected with the journal (systemd.exec(5), ``$JOURNAL_STREAM``)."""
    status = os.fstat(fd)
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def start(level: str, environment: Mapping[str, str], path: Path = SOCKET) -> None:
    """Have the log written from now on.

    :param level: the least that is written, one of :data:`als.config.LOG_LEVELS`.
    """
    logging.basicConfig(level=level.upper(), handlers=[_handler(environment, path)])


def _handler(environment: Mapping[str, str], path: Path) -> logging.Handler:
    if leads_to_journal(environment):
        # Not at the top: a command in a terminal does without, and is quicker for it.
        from als.cli.journal import JournalHandler

        try:
            return JournalHandler(path)
        except OSError as error:
            print(f"als: the journal does not answer at {path}: {error.strerror}", file=sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Redacting(_LINE))
    return handler
