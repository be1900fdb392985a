"""What containers of lazy images read first: fetched ahead, and recorded for the next time (:mod:`als.lazy.start`)."""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from als.errors import AlsError
from als.lazy.engine import Engine
from als.lazy.layer import LazyLayer
from als.lazy.processor import hwcaps_levels
from als.lazy.profiles import Profiles
from als.lazy.runtimes import usual_files
from als.lazy.start import CompleteLayer, Start
from als.model.digest import Digest
from als.store.images import ImageRecord
from als.store.layers import Layers

log = logging.getLogger(__name__)

_CPUINFO = Path("/proc/cpuinfo")


class Starts:
    """One for each image that has lazy layers and was asked for in this daemon's life. Thread-safe."""

    def __init__(self, engine: Engine, layers: Layers, profiles: Profiles) -> None:
        self._engine = engine
        self._layers = layers
        self._profiles = profiles
        self._levels = hwcaps_levels(_CPUINFO.read_text("ascii", "replace"))
        self._usual = usual_files(platform.machine())
        self._lock = threading.Lock()
        self._starts: dict[Digest, tuple[Start, frozenset[str]]] = {}
        """By the digest of the image's configuration; with the keys of its lazy layers."""

    def begin(self, image: ImageRecord, lazy: Mapping[Digest, LazyLayer]) -> None:
        """Fetch ahead what the image's containers will need, if all of its layers can be looked into by now.

        :param lazy: those of its layers, by DiffID, that are not complete.
        """
        config = image.manifest.config.digest
        with self._lock:
            if config in self._starts or not lazy:
                return
        found: list[LazyLayer | CompleteLayer] = []
        for diff_id in image.config.diff_ids:
            if diff_id in lazy:
                found.append(lazy[diff_id])
            elif self._layers.has(diff_id):
                found.append(CompleteLayer(self._layers.image(diff_id), self._layers.forest(diff_id)))
            else:
                # It is being fetched whole; when it is here this is called again.
                return
        try:
            profile = self._profiles.get(config)
        except AlsError as error:
            log.warning("%s", error)
            profile = None
        keep = partial(self._profiles.add, config) if self._profiles.on else None
        start = Start(self._engine, image.config_data, found, self._levels, self._usual, profile, keep=keep)
        with self._lock:
            if self._starts.setdefault(config, (start, frozenset(layer.key for layer in lazy.values())))[0] is not start:
                return
        start.begin()

    def read(self, key: str, name: bytes, offset: int, length: int) -> None:
        """A file of a lazy layer is being read."""
        for start, keys in list(self._starts.values()):
            if key in keys:
                start.read(name, offset, length)

    def end(self, key: str = "") -> None:
        """A layer is not lazy any more; without a key, none is. What was recorded of its images is kept."""
        with self._lock:
            ended = [config for config, (_, keys) in self._starts.items() if not key or key in keys]
            starts = [self._starts.pop(config)[0] for config in ended]
        for start in starts:
            try:
                start.end()
            except AlsError as error:
                log.warning("%s", error)
