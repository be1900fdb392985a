"""The metadata images of lazy layers: each written of an index, in a process of its own (:mod:`als.worker.image_job`).

Such a process can be there before the index is: to start one takes some milliseconds, of a time in which somebody waits.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from als.errors import Abandoned, WorkerError
from als.fetch.workerlink import WorkerLink
from als.formats.index import LayerIndex
from als.formats.indexfile import pack
from als.model.limits import Limits
from als.store.refused import store_errors
from als.worker.client import Workers
from als.worker.frames import END, read_json

_SECONDS = 600.0
"""The image of a million files takes half a minute, on two processors with others at work on them."""
_SPARE = 4
"""Processes that may wait for an index."""


class ImageWriter:
    """A process that writes one image to a new file; to be closed.

    :param check: asked again and again while it is waited for; raises when that is to end.
    :raises StoreError: the disk refused.
    """

    def __init__(self, path: Path, workers: Workers, limits: Limits, check: Callable[[], None]) -> None:
        self.path = path
        self.limits = limits
        with store_errors(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            self._link = WorkerLink(lambda link: workers.write_image(link, self._fd, path, limits), _SECONDS, str(path), check)
        except BaseException:
            self._discard()
            raise

    def write(self, index: LayerIndex) -> str:
        """Write a layer's image; returns its sha256, hexadecimal. The process ends.

        :raises BadImage: the index makes no layer.
        :raises LimitExceeded: there is more of something than the limits allow.
        :raises StoreError: the disk refused.
        :raises AlsError: or what `check` raises. After every error, there is no file.
        """
        try:
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
        os.close(self._fd)
        return sha256

    def close(self) -> None:
        """End it, whatever it has written. Not after `write`."""
        self._link.close()
        self._discard()

    def _discard(self) -> None:
        os.close(self._fd)
        self.path.unlink(missing_ok=True)


class ImageWriters:
    """Thread-safe; to be closed.

    :param folder: where images are written; they are for others to move to their places.
    """

    def __init__(self, folder: Path, workers: Workers) -> None:
        self._folder = folder
        self._workers = workers
        self._lock = threading.Lock()
        self._spare: list[ImageWriter] = []
        self._closed = False

    def prepare(self, limits: Limits) -> None:
        """Have one more process wait for an index.

        :raises AlsError: it could not be started.
        """
        with self._lock:
            if self._closed or len(self._spare) >= _SPARE:
                return
        writer = self._start(limits)
        with self._lock:
            if not self._closed:
                self._spare.append(writer)
                return
        writer.close()

    def write(self, index: LayerIndex, limits: Limits) -> tuple[Path, str]:
        """Write a layer's image; returns where it is, and its sha256.

        :raises Abandoned: als is being stopped.
        :raises AlsError: as :meth:`ImageWriter.write`.
        """
        with self._lock:
            writer = next((each for each in self._spare if each.limits == limits), None)
            if writer is not None:
                self._spare.remove(writer)
        # gc may have swept the folder since.
        if writer is not None and not writer.path.exists():
            writer.close()
            writer = None
        writer = writer or self._start(limits)
        return writer.path, writer.write(index)

    def dismiss(self) -> None:
        """End those that wait for an index."""
        with self._lock:
            spare, self._spare = self._spare, []
        for writer in spare:
            writer.close()

    def close(self) -> None:
        """End all: who waits for an image gets an error."""
        with self._lock:
            self._closed = True
        self.dismiss()

    def _start(self, limits: Limits) -> ImageWriter:
        self._check()
        return ImageWriter(self._folder / f"image-{secrets.token_hex(6)}", self._workers, limits, self._check)

    def _check(self) -> None:
        if self._closed:
            raise Abandoned("als is being stopped", where=str(self._folder))
