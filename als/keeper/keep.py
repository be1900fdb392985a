"""The keeper: starts the daemon, keeps its descriptors, and starts it again when it dies or hangs.

It is what systemd is to a service with a descriptor store, for machines and containers without systemd. Other than systemd it
has the next daemon ready while one serves, as far as that can be without being asked. It does so little that there is nothing
in it to die of. Nothing of what it does takes long, so one thread and one loop are enough.

SIGTERM and SIGINT end both for good; SIGHUP has the daemon start anew, from the program that is on disk now, while readers
wait for it. Where a daemon dies again and again, the mount is taken away and the connection closed, so that podman works
without als; it is tried again more and more seldom.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from als.errors import KernelError
from als.keeper import protocol
from als.keeper.child import Child, Mailbox, Standby
from als.keeper.restarts import STEADY_SECONDS, Restarts
from als.mount.lazy import withdraw
from als.mount.table import find_mount

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_ENDS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is kept, and how long it may take."""

    command: tuple[str, ...]
    """The daemon: its program's path, and arguments."""
    mountpoint: Path
    """Where its connection is mounted."""
    fstype: str
    """The type of that mount: no other is taken away."""
    watchdog: float
    """Seconds without a sign of life after which a daemon that was ready hangs."""
    start: float = 60.0
    """Seconds that it has to be ready where it takes over a connection."""
    stop: float = 60.0
    """Seconds that it has to end."""
    standby: tuple[str, ...] = ()
    """What waits to become the daemon (:mod:`als.keeper.standby`); empty: nothing does."""


class Keeper:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._mailbox = Mailbox()
        self._held: dict[str, int] = {}
        self._restarts = Restarts()
        self._child: Child | None = None
        self._standby: Standby | None = None
        self._standby_due = math.inf
        self._ready = self._seen = 0.0
        """When it was ready (0: not yet), and when anything was heard of it last, on the monotonic clock."""
        self._ever_ready = False
        self._next_start = 0.0
        self._hung = False
        self._stop_by: float | None = None
        """When a daemon that was asked to end is killed."""
        self._ending = False
        self._again = False
        """It was asked to end so that another one can begin."""

    def run(self) -> int:
        """Until it is told to end; the exit status. To be called on the main thread."""
        with _signals() as wakeup:
            while True:
                now = time.monotonic()
                if self._child is None and now >= self._next_start:
                    self._start(now)
                if self._child is not None and now >= self._standby_due:
                    self._standby, self._standby_due = Standby(self._settings.standby), math.inf
                select.select([self._mailbox.fileno(), wakeup.fileno()], [], [], self._patience(now))
                for number in _arrived(wakeup):
                    self._handle(number)
                self._listen()
                status = self._look_after()
                if status is not None:
                    self._dismiss_standby()
                    return status

    def _start(self, now: float) -> None:
        settings, address = self._settings, self._mailbox.address
        standby, self._standby = self._standby, None
        self._child = standby.become(self._held, address, settings.watchdog) if standby is not None else None
        if self._child is None:
            self._child = Child.start(settings.command, self._held, address, settings.watchdog)
        self._standby_due = math.inf
        self._ready, self._seen = 0.0, now
        self._hung = self._again = False
        self._stop_by = None

    def _patience(self, now: float) -> float | None:
        """Seconds until something has to be done unasked; None: never."""
        until = self._next_start if self._child is None else min(self._limit(), self._standby_due)
        return max(0.0, until - now) if until < math.inf else None

    def _limit(self) -> float:
        """When the daemon that runs is killed unless something happens."""
        if self._stop_by is not None:
            return self._stop_by
        if self._ready:
            return self._seen + self._settings.watchdog
        # With nothing to take over nobody waits for it, and after a reboot there may be much to mount.
        return self._seen + self._settings.start if self._holds_connection() else math.inf

    def _handle(self, number: int) -> None:
        if number in _ENDS:
            self._ending = True
            # Before the mount goes: that ends a daemon as well, and then the signal would meet one that is clearing up.
            self._ask_to_end()
            # Whoever comes now finds what lies below.
            self._detach()
        elif number == signal.SIGHUP and not self._ending:
            log.info("the daemon starts anew")
            self._again = True
            # It has the program that was on disk before.
            self._dismiss_standby()
            self._ask_to_end()

    def _ask_to_end(self) -> None:
        if self._child is not None and self._stop_by is None:
            self._stop_by = time.monotonic() + self._settings.stop
            self._child.signal(signal.SIGTERM)

    def _listen(self) -> None:
        while self._child is not None and (received := self._mailbox.receive(self._child.pid)) is not None:
            said, descriptors = received
            self._seen = time.monotonic()
            if "READY" in said and not self._ready:
                self._ready, self._ever_ready = self._seen, True
                if self._settings.standby:
                    # Loading takes processor time, of which now others have better use.
                    self._standby_due = self._seen + STEADY_SECONDS
            name = said.get("FDNAME", "")
            if "FDSTORE" in said and protocol.is_name(name) and len(descriptors) == 1:
                self._drop(name)
                self._held[name] = descriptors.pop()
            elif "FDSTOREREMOVE" in said:
                self._drop(name)
            for descriptor in descriptors:
                os.close(descriptor)

    def _look_after(self) -> int | None:
        """Do what has to be done; the exit status when there is nothing left to do."""
        if self._standby is not None and self._standby.ended() is not None:
            log.warning("the process that waits to become the daemon has ended")
            self._standby = None
        child = self._child
        if child is None:
            return 0 if self._ending else None
        status = child.ended()
        if status is None:
            if time.monotonic() >= self._limit():
                log.error("the daemon (%d) does not %s: killed", child.pid, "end" if self._stop_by else "answer")
                self._hung = self._stop_by is None
                # Even if it is stopped, or in a system call that waits.
                child.signal(signal.SIGKILL)
                self._stop_by = time.monotonic() + self._settings.stop
            return None
        # What it said last came before its end.
        self._listen()
        self._child = None
        return self._after(status)

    def _after(self, status: int) -> int | None:
        now = time.monotonic()
        if self._again and not self._ending:
            self._next_start = now
            return None
        if self._ending or status == 0 or not self._ever_ready:
            self._give_up()
            return 0 if self._ending else max(status, 0) or (1 if status else 0)
        self._restarts = self._restarts.died(now - self._ready if self._ready else 0.0, hung=self._hung)
        self._next_start = now + self._restarts.delay
        log.error("the daemon ended with %d; the next one starts in %.1f s", status, self._restarts.delay)
        if self._restarts.hopeless and self._held:
            log.error("it dies again and again: %s is taken away, podman pulls without als", self._settings.mountpoint)
            self._give_up()
        return None

    def _dismiss_standby(self) -> None:
        standby, self._standby, self._standby_due = self._standby, None, math.inf
        if standby is not None:
            standby.dismiss()

    def _give_up(self) -> None:
        """Let nobody wait for a daemon any more."""
        self._detach()
        for name in list(self._held):
            self._drop(name)

    def _detach(self) -> None:
        where = self._settings.mountpoint
        entry = find_mount(where)
        if entry is None or entry.fstype != self._settings.fstype or not self._holds_connection():
            return
        try:
            withdraw(where)
        except KernelError as error:
            log.error("%s", error)

    def _holds_connection(self) -> bool:
        """Whether what is mounted is ours: /dev/fuse is among what is held, and not sockets alone."""
        return any(stat.S_ISCHR(os.fstat(descriptor).st_mode) for descriptor in self._held.values())

    def _drop(self, name: str) -> None:
        descriptor = self._held.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Signals as bytes, to be read."""
    receiver, sender = socket.socketpair()
    with receiver, sender:
        receiver.setblocking(False)
        sender.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        former = signal.set_wakeup_fd(sender.fileno())
        try:
            yield receiver
        finally:
            signal.set_wakeup_fd(former)
            for number, handler in before.items():
                signal.signal(number, handler)


def _arrived(wakeup: socket.socket) -> Sequence[int]:
    try:
        return wakeup.recv(4096)
    except BlockingIOError:
        return b""
