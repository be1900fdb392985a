"""Errors by kind, counted where all of them pass: in the log.

Whatever goes wrong in the daemon and is not somebody's answer ends as a log record of level WARNING or above with the error
among its arguments. To count there needs no call in each of those places, and none can be forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter

from als.errors import AlsError

OTHER = "other"
"""The kind of a complaint that is about no error of :mod:`als.errors`."""


class ErrorCounter(logging.Handler):
    """Counts records of level WARNING and above."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(logging.WARNING)
        self._errors = Counter(
            "als_errors", "Complaints in the log, by level and by the kind of error.", ["level", "kind"], registry=registry
        )

    def emit(self, record: logging.LogRecord) -> None:
        self._errors.labels(record.levelname.lower(), kind_of(record)).inc()


def kind_of(record: logging.LogRecord) -> str:
    """The class of the error that a record is about."""
    told = record.args if isinstance(record.args, tuple) else ()
    raised = record.exc_info[1] if record.exc_info else None
    return next((type(each).__name__ for each in (raised, *told) if isinstance(each, AlsError)), OTHER)


@contextmanager
def counted(registry: CollectorRegistry) -> Iterator[None]:
    """Errors that are logged within are counted."""
    logger = logging.getLogger("als")
    handler = ErrorCounter(registry)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
