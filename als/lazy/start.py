"""The start of an image's containers: what they will read first is fetched first, and what they do read is recorded.

What is known of that, and in which order it is asked for:

1. What a reader waits for. It is before everything that is asked for here, and takes the line from it.
2. The *profile*, where one was recorded: what earlier runs read, in their order, from the image's first read on. Nothing else
   is as sure, and nothing else knows of what a program opens after it was loaded.
3. The *gates*: bytes that say which further files the image's command needs (:class:`als.lazy.prefetch.EntryFiles`). They are
   a few kilobytes each and cost round trips, one after the other, while the link lies idle otherwise. So without a
   profile they go before all that is merely large; with one, what they lead to is in it, and they come after it.
4. What the layers' builders *promised* to be read first: as sure as a profile where there is any, and in one piece.
5. The *files* to which the gates led, in the order of their use.

Before the gates come the two files in which clients look the container's user up, before they start anything.

2, 4 and 5 are of one class (``Want.PREFETCH``), first come first served; 3 is of that class where there is a profile, and else
of one that waits for none of them (``Want.GATE``). An example: 20 ms of round trip, 200 Mbit/s, a client that reads nothing for
the first 0.3 s. A closure is as deep as its libraries (4 to 6 gates after each other, each 25 ms), and so known well before the
first read, for a few hundred kilobytes of the 7 MB that the link could carry meanwhile. The rest of these 7 MB is what 4 and 5
get: the program's own file is asked for with its first gate, its libraries when they become known. If the files went first,
each gate would wait until some megabytes have passed, and the last libraries would be found after their first reader.

Nothing here has a thread or waits: a step is made in a thread of the engine when bytes came for which a gate has waited.
Configuration, names and bytes are those of strangers. `EntryFiles` bounds what is looked into; of what it wants, `_FILE_MAX`
bytes of a file and `_TOTAL_MAX` bytes in all are asked for (beyond that, who reads knows better). What is malformed leads
nowhere and costs nobody anything.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future

from als.errors import AlsError, BadImage
from als.lazy.command import command_of
from als.lazy.elf import Span
from als.lazy.engine import Engine
from als.lazy.layer import LazyLayer
from als.lazy.prefetch import EntryFiles, Wish, promised_units
from als.lazy.profile import WINDOW_SECONDS, Profile, Recorder
from als.lazy.runtimes import RuntimeFile
from als.lazy.schedule import Want
from als.lazy.target import Target
from als.lazy.view import CompleteLayer, ImageView, name_of
from als.model.tree import Inode

__all__ = ["CompleteLayer", "Keep", "Start"]

log = logging.getLogger("als.lazy")

LIMIT = 30.0
"""Seconds after which gates that have not come are not waited for any more."""
_FILE_MAX = 64 << 20
_TOTAL_MAX = 1 << 30
_USERS = (b"etc/passwd", b"etc/group")
_USERS_MAX = 1 << 16
_BATCH = 128
"""Wishes of a profile that are asked for at once: the first should not wait until the last was looked up."""

Keep = Callable[[Profile, Container[bytes]], None]
"""Is given a run that was recorded, and the paths that could not be seen in it: :meth:`als.lazy.profiles.Profiles.add`."""
_Wanted = tuple[Target, Sequence[int], Want]


class Start:
    """See the module. Thread-safe; for one image, from when its layers exist.

    :param config: the image's configuration.
    :param layers: lowest first. Layers that become complete later on stay what they were for this.
    :param levels: :func:`als.lazy.processor.hwcaps_levels` of this machine.
    :param usual: :func:`als.lazy.runtimes.usual_files` of this machine.
    :param profile: what was recorded of the image before.
    :param keep: what is done with the run's profile, once; None: nothing is recorded.
    :param window: seconds from the first read on that are recorded.
    """

    def __init__(
        self,
        engine: Engine,
        config: bytes,
        layers: Sequence[LazyLayer | CompleteLayer],
        levels: tuple[bytes, ...] = (),
        usual: tuple[RuntimeFile, ...] = (),
        profile: Profile | None = None,
        *,
        keep: Keep | None = None,
        window: float = WINDOW_SECONDS,
        limit: float = LIMIT,
    ) -> None:
        self.done: Future[None] = Future()
        """Fulfilled when all that can be foreseen has been asked for, or the time for that is over."""
        self._engine = engine
        self._config = config
        self._layers = layers
        self._levels = levels
        self._usual = usual
        self._profile = profile or Profile()
        self._keep = keep
        self._window = window
        self._until = time.monotonic() + limit
        self._stepping = threading.Lock()
        """Held while names are looked up."""
        self._view: ImageView | None = None
        self._entry: EntryFiles | None = None
        self._budget = _TOTAL_MAX
        self._lock = threading.Lock()
        """Held for moments only: of what follows."""
        self._over = False
        self._awaited = 0
        self._step_due = False
        self._recorder = Recorder(window) if keep is not None else None
        self._ending = threading.Lock()
        self._run: Profile | None = None

    def begin(self) -> None:
        """Ask for what is foreseen. Returns at once; to be called once."""
        self._engine.at(self._until, self._stop)
        self._engine.run(self._begin, quick=True)

    def read(self, name: bytes, offset: int, length: int) -> None:
        """Somebody reads `length` bytes of the content `name` of a lazy layer; cheap, for every read there is."""
        if self._recorder is None:
            return
        now = time.monotonic()
        with self._lock:
            if self._recorder is None:
                return
            first = not self._recorder.names
            self._recorder.read(name, offset, length, now)
        if first:
            self._engine.at(now + self._window, lambda: self._engine.run(self._record))

    def end(self) -> Profile | None:
        """Ask for nothing more, and keep what was recorded; harmless a second time.

        To be called when nobody reads through FUSE any more, at the latest before the engine is closed. When its window is
        over, the record is kept without it; but a container that never reads through FUSE opens no window.

        :returns: what this run has read first; None: nothing, or nothing was to be recorded.
        :raises StoreError: the disk refused.
        """
        self._stop()
        self._record()
        with self._stepping:
            self._tidy()
        return self._run

    # -- steps, in a thread of the engine

    def _begin(self) -> None:
        with self._stepping:
            try:
                self._begin_with(self._seen())
            except AlsError as error:
                # The container finds out by itself, and has somebody to tell it to.
                log.info("nothing is fetched ahead for an image: %s", error)
                self._stop()
            self._tidy()

    def _begin_with(self, view: ImageView) -> None:
        for batch in _batches(self._profile.wishes(view.lookup)):
            self._engine.want_all(self._wanted(view, batch, Want.PREFETCH))
        users = list(_users(view))
        self._engine.want_all(self._wanted(view, users, Want.GATE))
        wishes: list[Wish] = []
        try:
            command = command_of(self._config)
        except BadImage as error:
            log.info("an image's command is not known: %s", error)
        else:
            self._entry = EntryFiles(view.lookup, view.peek, command, self._levels, self._usual)
            wishes = self._entry.advance()
        self._ask(view, wishes, self._promised())

    def _step(self) -> None:
        """Go on with the bytes that came."""
        with self._lock:
            self._step_due = False
        with self._stepping:
            if self._entry is not None and not self._over:
                try:
                    self._ask(self._seen(), self._entry.advance())
                except AlsError as error:
                    log.info("nothing more is fetched ahead for an image: %s", error)
                    self._stop()
            self._tidy()

    def _ask(self, view: ImageView, wishes: Sequence[Wish], promised: Iterable[_Wanted] = ()) -> None:
        """Have the bytes fetched, and see to being called when gates are open."""
        urgency = Want.PREFETCH if self._profile.files else Want.GATE
        gates = [wish for wish in wishes if wish.gate]
        others = self._bounded(wish for wish in wishes if not wish.gate)
        wanted = [*self._wanted(view, gates, urgency), *promised, *self._wanted(view, others, Want.PREFETCH)]
        self._engine.want_all(wanted)
        futures: list[Future[bytes]] = []
        for wish in gates:
            layer = view.lazy_layer(wish.file)
            if layer is not None:
                left = max(0.0, self._until - time.monotonic())
                futures.append(layer.read(name_of(wish.file), wish.span.offset, wish.span.length, left, urgency))
        with self._lock:
            self._awaited += len(futures)
            nothing_left = not self._awaited and not self._step_due
        for future in futures:
            future.add_done_callback(self._came)
        if self._entry is None or self._entry.finished or nothing_left:
            self._stop()

    def _came(self, future: Future[bytes]) -> None:
        """The bytes of a gate are here, or will not come."""
        with self._lock:
            self._awaited -= 1
            due, self._step_due = self._step_due or self._over, True
        if not due:
            self._engine.run(self._step, quick=True)

    def _stop(self) -> None:
        with self._lock:
            over, self._over = self._over, True
        if not over:
            self.done.set_result(None)

    # -- what is asked for

    def _wanted(self, view: ImageView, wishes: Iterable[Wish], want: Want) -> Iterator[_Wanted]:
        for wish in wishes:
            layer = view.lazy_layer(wish.file)
            if layer is not None:
                units = layer.absent_units(name_of(wish.file), wish.span.offset, wish.span.length)
                if units:
                    yield layer, units, want

    def _promised(self) -> Iterator[_Wanted]:
        for layer in self._layers:
            if isinstance(layer, LazyLayer):
                units = promised_units(layer.index)
                if units:
                    yield layer, units, Want.PREFETCH

    def _bounded(self, wishes: Iterable[Wish]) -> Iterator[Wish]:
        for wish in wishes:
            length = min(wish.span.length, _FILE_MAX, self._budget)
            if length:
                self._budget -= length
                yield Wish(wish.file, Span(wish.span.offset, length))

    # -- the record

    def _record(self) -> None:
        """The run is over: keep what was recorded of it."""
        with self._ending:
            with self._lock:
                recorder, self._recorder = self._recorder, None
            if recorder is None or self._keep is None:
                return
            with self._stepping:
                view = self._seen()
                run = recorder.profile(view.path_of)
                unseen = {each.path for each in self._profile.files if view.is_native(each.path)}
                self._tidy()
            if run.files:
                self._run = run
                self._keep(run, unseen)

    def _tidy(self) -> None:
        """Let go of the layers' images when they are not needed any more."""
        if self._over and self._recorder is None:
            self._view = self._entry = None

    def _seen(self) -> ImageView:
        if self._view is None:
            self._view = ImageView(self._layers)
        return self._view


def _users(view: ImageView) -> Iterator[Wish]:
    for path in _USERS:
        found = view.lookup(path)
        if found is not None and isinstance(found.node, Inode) and found.node.content is not None:
            yield Wish(found, Span(0, min(found.node.size, _USERS_MAX)))


def _batches(wishes: Iterator[Wish]) -> Iterator[list[Wish]]:
    while batch := list(itertools.islice(wishes, _BATCH)):
        yield batch
