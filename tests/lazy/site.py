"""A store with lazy layers, for tests: real workers, a registry on a real socket."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from als.fetch.source import RegistryImages
from als.formats.discovery import find_indexed, indexed_format_of
from als.formats.index import LayerIndex
from als.lazy.complete import Sealer
from als.lazy.engine import Engine
from als.lazy.layer import LazyLayer
from als.lazy.link import Tuning
from als.lazy.store import PATIENCE, LazyStore
from als.model.digest import Digest
from als.registry.endpoint import Endpoint
from als.store.layers import Layers
from als.store.layout import Layout
from als.verity.policy import UNSEALED, Policy
from als.worker.client import Workers
from tests.formats.lazylayers import LazyLayer as Sample
from tests.formats.tocbuilder import Source, file, folder
from tests.harness.system import wait_until
from tests.lazy.faultyregistry import FaultyRegistry

INDEXED = find_indexed()
TIMEOUT = 20.0
QUICK = Tuning(backoff=0.05, backoff_max=0.4, backoff_demand=0.2)


def index_of(sample: Sample) -> LayerIndex:
    found = indexed_format_of(INDEXED, sample.descriptor.media_type, sample.descriptor.annotations)
    assert found is not None
    return sample.index(found)


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def usual_sources(files: int = 40) -> list[Source]:
    """A folder with files of all sizes, one of them twice, and a large one."""
    sources = [folder("d"), file("d/large", noise(300_000, 1)), file("d/empty", b"")]
    sources += [file(f"d/{number}", noise(1 + number * 97, number)) for number in range(files)]
    return [*sources, folder("e"), file("e/again", noise(300_000, 1)), file("e/last", b"last" * 5000)]


class Site:
    """Everything between a registry and a reader. A context manager.

    :param stall: seconds without a byte after which a request is given up.
    """

    def __init__(self, folder: Path, workers: Workers, *, tuning: Tuning = QUICK, stall: float = 8.0) -> None:
        self.layout = Layout(folder)
        self.layout.create()
        self.layers = Layers(self.layout)
        self.workers = workers
        self.address = ""
        self.opened = 0
        self._tuning = tuning
        self._stall = stall
        self._stack = ExitStack()

    def start(self) -> None:
        self.engine = self._stack.enter_context(Engine(self.workers, self._tuning, stall=self._stall))
        self.lazy = self._stack.enter_context(LazyStore(self.layout, self.engine, self._open))
        self.sealer = self.sealer_with(UNSEALED)

    def sealer_with(self, policy: Policy) -> Sealer:
        """One that seals with fs-verity where the policy says so."""
        return Sealer(self.layout, self.layers, self.lazy, self.workers, fetch_stall=TIMEOUT, policy=policy)

    def stop(self) -> None:
        self._stack.close()

    def source(self) -> RegistryImages:
        """The repository of its layers."""
        return self._open(f"{self.address}/img:1")

    def _open(self, reference: str) -> RegistryImages:
        self.opened += 1
        endpoint = Endpoint(self.address, reference.partition("/")[2].partition(":")[0], insecure=True)
        params: dict[str, object] = {"endpoints": [endpoint.to_json()], "settings": PATIENCE.to_json()}
        return RegistryImages(self.workers, params, reference, stall=self._stall)

    def layer(self, registry: FaultyRegistry | str, sample: Sample, name: str = "img:1") -> LazyLayer:
        self.address = registry if isinstance(registry, str) else registry.address
        layer = self.lazy.open(
            f"{self.address}/{name}",
            self.address,
            sample.descriptor,
            Digest.parse(sample.diff_id),
            index_of(sample),
            "estargz",
        )
        self.lazy.draw(layer)
        return layer

    def wait(self, condition: Callable[[], bool], what: str = "what was waited for") -> None:
        wait_until(condition, what, TIMEOUT)

    def wait_idle(self, layer: LazyLayer) -> None:
        """Until nothing is in the air."""
        link = self.engine.link(layer.host)
        self.wait(lambda: not link.urgent and not link.others, "the end of all requests")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def blobs_of(*samples: Sample) -> Mapping[str, bytes]:
    return {str(sample.descriptor.digest): sample.blob for sample in samples}


def contents(sample: Sample) -> dict[bytes, bytes]:
    """What each file of the layer has in it, by its name in the forest; as the formats' own reader finds it."""
    index = index_of(sample)
    return {
        index.sha256(number) or index.chunks_digest(number): sample.content(index, number)
        for number in range(len(index))
        if index.size(number)
    }


def got(future: Future[bytes]) -> bytes:
    return future.result(TIMEOUT)


def read(layer: LazyLayer, name: bytes, offset: int = 0, length: int = 1 << 30, timeout: float = TIMEOUT) -> bytes:
    return got(layer.read(name, offset, length, timeout))
