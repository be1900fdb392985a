"""The metadata images of lazy layers, each written in a process of its own (:mod:`als.worker.image_job`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from als.errors import WorkerError
from als.fetch.ingest import pipe
from als.fetch.workerlink import WorkerLink
from als.formats.index import LayerIndex
from als.formats.indexfile import pack
from als.formats.indexrows import digest_of
from als.model.limits import Limits
from als.store.refused import store_errors
from als.worker.client import Workers
from als.worker.frames import END, read_json
from als.worker.image_job import NEED

_SECONDS = 600.0
"""The image of a million files takes half a minute, on two processors with others at work on them."""


class ImageWriter:
    """A process that writes one image to a new file; to be closed. It is there before the layer's index is: the entries are
    best given to it as they come, by :attr:`rows`.

    :param check: asked again and again while it is waited for; raises when that is to end.
    :raises StoreError: the disk refused.
    """

    def __init__(self, path: Path, workers: Workers, limits: Limits, check: Callable[[], None]) -> None:
        self.path = path
        with contextlib.ExitStack() as failed:
            with store_errors(path):
                image = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            failed.callback(path.unlink, missing_ok=True)
            read_end, self._rows = pipe()
            failed.callback(os.close, self._rows)
            try:
                self._link = WorkerLink(
                    lambda link: workers.write_image(link, read_end, image, path, limits), _SECONDS, str(path), check
                )
            finally:
                os.close(read_end)
                os.close(image)
            failed.pop_all()

    @property
    def rows(self) -> int:
        """Where an indexer writes the entries (:meth:`als.worker.client.Workers.index_toc`); ours to close."""
        return self._rows

    def write(self, index: LayerIndex) -> str:
        """Have a layer's image; returns its sha256, hexadecimal. The process ends.

        :raises BadImage: the index makes no layer.
        :raises LimitExceeded: there is more of something than the limits allow.
        :raises StoreError: the disk refused.
        :raises AlsError: or what `check` raises. After every error, there is no file.
        """
        try:
            self._close_rows()
            self._link.feed(digest_of(index.columns))
            kind, body = self._link.frame()
            if kind == NEED:
                for piece in pack(index):
                    self._link.feed(piece)
                self._link.end_of_input()
                kind, body = self._link.frame()
            sha256 = read_json(body).get("sha256") if kind == END else None
            if not isinstance(sha256, str):
                raise WorkerError("the writer of an image broke the protocol", where=str(self.path))
        except BaseException:
            self.close()
            raise
        self._link.close()
        return sha256

    def close(self) -> None:
        """End it, whatever it has written. Not after `write`."""
        self._close_rows()
        self._link.close()
        self.path.unlink(missing_ok=True)

    def _close_rows(self) -> None:
        """Whoever has a copy writes on."""
        if self._rows >= 0:
            os.close(self._rows)
            self._rows = -1
