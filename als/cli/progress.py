"""What ``als pull`` shows while it works: bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

from als.cli.output import bytes_text

if TYPE_CHECKING:
    from rich.progress import TaskID

    from als.model.digest import Digest
    from als.model.manifest import Descriptor


class Display(Protocol):
    """Progress (:class:`als.fetch.progress.Progress`) on the screen; a context manager."""

    def begins(self, layer: Descriptor) -> None: ...

    def advances(self, layer: Descriptor, count: int) -> None: ...

    def done(self, layer: Descriptor, *, fetched: bool) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...


class Lines:
    """A line when a layer is begun and one when it is done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def begins(self, layer: Descriptor) -> None:
        click.echo(f"layer {_short(layer.digest)}: fetching {bytes_text(layer.size)}", err=True)

    def advances(self, layer: Descriptor, count: int) -> None:
        pass

    def done(self, layer: Descriptor, *, fetched: bool) -> None:
        click.echo(f"layer {_short(layer.digest)}: {'complete' if fetched else 'already here'}", err=True)


class LayerBars:
    """A bar for each layer that is being fetched."""

    def __init__(self) -> None:
        # Loaded for those who have a terminal to look at: it takes 30 ms.
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bars = Bars(*columns, console=Console(stderr=True))
        self._tasks: dict[Digest, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def begins(self, layer: Descriptor) -> None:
        with self._lock:
            self._tasks[layer.digest] = self._bars.add_task(f"layer {_short(layer.digest)}", total=layer.size)

    def advances(self, layer: Descriptor, count: int) -> None:
        self._bars.advance(self._tasks[layer.digest], count)

    def done(self, layer: Descriptor, *, fetched: bool) -> None:
        if not fetched:
            self._bars.console.print(f"layer {_short(layer.digest)} already here")


def display(terminal: bool) -> Display:
    """What suits the place that the output goes to."""
    return LayerBars() if terminal else Lines()


def _short(digest: Digest) -> str:
    return digest.hex[:12]
