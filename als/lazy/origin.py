"""Where the lazy layers of a reference come from."""

from __future__ import annotations

import threading
from collections.abc import Callable

from als.fetch.source import RangeSource, RepositorySource

Opener = Callable[[str], RepositorySource]
"""Gives the repository of a reference, with the credentials that are configured now."""


class SharedOrigin:
    """The source of the lazy layers of one reference; opened when it is needed, and again when it has failed."""

    def __init__(self, reference: str, host: str, opener: Opener) -> None:
        self.host = host
        self._reference = reference
        self._open = opener
        self._lock = threading.Lock()
        self._source: RepositorySource | None = None
        self._former: RepositorySource | None = None

    def source(self) -> RepositorySource:
        with self._lock:
            if self._source is None:
                self._source = self._open(self._reference)
            return self._source

    def renew(self, source: RangeSource | None) -> None:
        with self._lock:
            if self._source is not None and source in (None, self._source):
                # Other requests may still get their answers through it.
                former, self._former, self._source = self._former, self._source, None
                if former is not None:
                    former.close()

    def close(self) -> None:
        """End the connections; they are opened again by whoever asks next."""
        with self._lock:
            for source in (self._former, self._source):
                if source is not None:
                    source.close()
            self._former = self._source = None
