"""What is looked up when somebody asks: how far images and layers are, workers, and the space that the store takes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from als import __version__
from als.errors import AlsError
from als.model.status import State
from als.service import Service
from als.service.status import status

log = logging.getLogger(__name__)

_LEAST_SECONDS = 60.0
_SHARE = 50
"""The store is not measured again before so many times the time has passed that the last measurement took."""
_IMAGE_STATES = tuple(state for state in State if state is not State.MISSING)
_LAYER_STATES = tuple(state for state in State if state is not State.INCOMPLETE)


class StateCollector(Collector):
    """Thread-safe."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._space = StoreSpace(service.layout.objects)

    def describe(self) -> Iterable[Metric]:
        """Nothing: else the registry would collect once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield _one("als_build_info", "Always 1; the label says which version runs.", "version", {__version__: 1})
        yield from self._images()
        yield GaugeMetricFamily("als_workers", "Unprivileged worker processes.", value=self._service.workers.running)
        yield from self._disk()

    def _images(self) -> Iterator[Metric]:
        try:
            found = status(self._service)
        except AlsError as error:
            # Monitoring is to go on just then; without these lines it shows that they are missing.
            log.warning("images cannot be counted: %s", error)
            return
        images = Counter(str(image.state) for image in found)
        layers = {layer.diff_id: layer.state for image in found for layer in image.layers}
        by_state = Counter(map(str, layers.values()))
        lazies = self._service.lazies
        yield _one("als_images", "Images of the store, by state (`als status`).", "state", _all(_IMAGE_STATES, images))
        yield _one("als_layers", "Layers of these images, each counted once.", "state", _all(_LAYER_STATES, by_state))
        opened = len(lazies.layers()) if lazies is not None else 0
        yield GaugeMetricFamily("als_open_layers", "Layers that are served before all of them is here.", value=opened)

    def _disk(self) -> Iterator[Metric]:
        space = os.statvfs(self._service.layout.root)
        free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        yield GaugeMetricFamily("als_disk_free_bytes", "Free on the store's file system.", value=free)
        yield GaugeMetricFamily("als_disk_bytes", "Size of the store's file system.", value=total)
        size, count = self._space.measured()
        yield GaugeMetricFamily("als_store_bytes", "Disk space of all objects, each counted once.", value=size)
        yield GaugeMetricFamily("als_store_objects", "Objects in the store.", value=count)


class StoreSpace:
    """Space and number of objects, measured now and then: a stat for each is too much for every scrape."""

    def __init__(self, objects: Path) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._next = 0.0
        self._last = (0, 0)

    def measured(self) -> tuple[int, int]:
        """Bytes on disk and number of objects, as of late: at least every `_LEAST_SECONDS`, if that costs little."""
        with self._lock:
            begun = time.monotonic()
            if begun >= self._next:
                self._last = _walk(self._objects)
                ended = time.monotonic()
                self._next = ended + max(_LEAST_SECONDS, _SHARE * (ended - begun))
            return self._last


def _walk(objects: Path) -> tuple[int, int]:
    size = count = 0
    for folder in sorted(objects.iterdir()):
        if folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                    except FileNotFoundError:
                        # gc took it just now.
                        continue
                    count += 1
    return size, count


def _all(states: Iterable[State], counts: Counter[str]) -> dict[str, int]:
    """With a zero for each state that nothing is in: a series that ends keeps its last value for minutes."""
    return {str(state): counts[str(state)] for state in states}


def _one(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
