"""The daemon looks through all objects, again and again and slowly, so that damage is found before somebody reads it.

An object that is sealed with fs-verity is passed over: the kernel compares each block of it when it comes from the disk. Others
are read at the setting ``scrub_rate`` by a thread of the lowest priority, which writes down where it is, so that a restart does
not begin anew. What it brought into the page cache it lets go of again. What is damaged is named, with whom it concerns, and
replaced (:mod:`als.service.mending`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from als.errors import AlsError, StoreDamaged
from als.native.files import cached_bytes
from als.native.refusal import Refusal, refusal
from als.native.verity import measure
from als.service.affected import affected
from als.service.core import Service
from als.service.mending import mend
from als.store.atomic import read_json, write_json
from als.store.layout import Layout
from als.store.lock import sharing
from als.store.objects import object_files
from als.store.refused import store_errors

_PIECE = 1 << 18
_LOWEST = 19
_INTERVAL = 86400.0
"""Seconds from the begin of one pass to that of the next, at least."""
_NOTE_SECONDS = 30.0

log = logging.getLogger(__name__)


class Scrub:
    """A thread of its own; a context manager, that ends it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def begin(self) -> None:
        """The daemon serves."""
        if self._service.config.scrub_rate:
            self._thread.start()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        while not self._stopping.is_set():
            try:
                scrub(self._service, self._stopping)
                pause = _begun(self._service.layout) + _INTERVAL - time.time()
            except AlsError as error:
                log.warning("the objects are not looked through: %s", error)
                pause = _INTERVAL
            # A clock that was set back makes nobody wait for longer.
            self._stopping.wait(min(max(pause, _NOTE_SECONDS), _INTERVAL))


def scrub(service: Service, stopping: threading.Event) -> None:
    """One pass over all objects, or the rest of one that was begun.

    :raises StoreError: the store cannot be read or written.
    """
    layout = service.layout
    next_name, begun = _state(layout)
    noted = time.monotonic()
    with store_errors(layout.root):
        for path in _objects(layout, next_name):
            if stopping.is_set():
                _note(layout, path.parent.name + path.name, begun)
                return
            if time.monotonic() - noted > _NOTE_SECONDS:
                noted = time.monotonic()
                _note(layout, path.parent.name + path.name, begun)
            damage = _damage(path, service.config.scrub_rate, stopping)
            if damage:
                _replace(service, bytes.fromhex(path.parent.name + path.name), damage)
        _note(layout, "", begun)


def _objects(layout: Layout, start: str) -> Iterator[Path]:
    """Every object from a name on, in order."""
    for folder in sorted(layout.objects.iterdir()):
        if folder.name >= start[:2]:
            yield from sorted(path for path in object_files(folder) if folder.name + path.name >= start)


def _damage(path: Path, rate: int, stopping: threading.Event) -> str:
    """What is wrong with an object; "" if nothing is, if it is gone, or if the pass ends here."""
    try:
        with path.open("rb", buffering=0) as file:
            if measure(file.fileno()) is not None:
                return ""
            cold = _is_cold(file.fileno())
            hasher = hashlib.sha256()
            while piece := file.read(_PIECE):
                hasher.update(piece)
                if stopping.wait(len(piece) / rate):
                    return ""
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        return "" if refusal(error) is Refusal.MISSING else f"cannot be read: {error.strerror}"
    return "" if hasher.hexdigest() == path.parent.name + path.name else "has another content"


def _is_cold(fd: int) -> bool:
    """Whether nothing of a file is in the page cache. Where nobody tells, it stays there: that is no damage."""
    try:
        return cached_bytes(fd) == 0
    except OSError:
        return False


def _replace(service: Service, sha256: bytes, damage: str) -> None:
    with sharing(service.layout.lock):
        concerned = affected(service, {sha256})
        log.error("object %s %s (%s)", sha256.hex(), damage, concerned[sha256])
        failed = mend(service, concerned).failed
    if sha256 in failed:
        log.error("object %s is not replaced: %s; look with `als fsck --deep`", sha256.hex(), failed[sha256])
    else:
        log.warning("object %s was replaced by a sound one", sha256.hex())


def _state(layout: Layout) -> tuple[str, float]:
    """The name to go on with, and when the pass began, in seconds since the epoch."""
    try:
        state = read_json(layout.scrub)
        name = str(state.get("next", ""))
        return (name, float(str(state.get("begun")))) if name else ("", time.time())
    except (FileNotFoundError, ValueError, StoreDamaged):
        return "", time.time()


def _begun(layout: Layout) -> float:
    """When the last pass began."""
    try:
        return float(str(read_json(layout.scrub).get("begun")))
    except (FileNotFoundError, ValueError, StoreDamaged):
        return time.time()


def _note(layout: Layout, name: str, begun: float) -> None:
    write_json(layout.scrub, {"next": name, "begun": begun})
