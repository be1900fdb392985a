"""The privileged side of workers: starting them, watching them, ending them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from als.errors import WorkerError
from als.model.limits import DEFAULT_LIMITS, Limits
from als.worker.sandbox import Sandbox

log = logging.getLogger("als.worker")

_START_TIMEOUT = 30.0
_PARSE_MEMORY = 1 << 30
_FETCH_MEMORY = 2 << 30
_SEAL_MEMORY = 3 << 30
"""An index of some million entries, packed and unpacked."""
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""glibc's malloc is to keep what is freed: workers take and free buffers of up to a MiB thousands of times, and for each the
kernel would clear new pages, which was a fifth of a worker's time (mallopt(3))."""


class Worker:
    """One running worker. A context manager: when the block ends, so does the worker."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd

    def ended(self, timeout: float = 0.0) -> bool:
        """Whether it has ended, waiting at most `timeout` seconds."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(int(timeout * 1000)))

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


class Workers:
    """Starts workers through a zygote that is kept warm. Thread-safe; a context manager.

    :param ids: user and group id of the workers.
    :param empty_folder: an empty directory, made here, that is all a worker without network sees of the file system.
    :param module: what the zygote runs; tests put workers there that lie.
    """

    def __init__(self, ids: tuple[int, int], empty_folder: Path, module: str = "als.worker") -> None:
        self._uid, self._gid = ids
        self._empty = empty_folder
        self._module = module
        self._lock = threading.Lock()
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def parse(self, format_name: str, source: int, sink: int, limits: Limits = DEFAULT_LIMITS) -> Worker:
        """A parse worker (see :mod:`als.worker.parse_job`); the descriptors stay the caller's to close."""
        sandbox = Sandbox(self._uid, self._gid, network=False, memory_bytes=_PARSE_MEMORY)
        return self._spawn("parse", {"format": format_name, "limits": asdict(limits)}, sandbox, [source, sink])

    def stream(self, source: int, sink: int, limits: Limits = DEFAULT_LIMITS) -> Worker:
        """A stream worker (see :mod:`als.worker.stream_job`); the descriptors stay the caller's to close."""
        sandbox = Sandbox(self._uid, self._gid, network=False, memory_bytes=_PARSE_MEMORY)
        return self._spawn("stream", {"limits": asdict(limits)}, sandbox, [source, sink])

    def fetch(self, params: Mapping[str, Any], requests: int) -> Worker:
        """A fetch worker (see :mod:`als.worker.fetch_job`)."""
        sandbox = Sandbox(self._uid, self._gid, network=True, memory_bytes=_FETCH_MEMORY)
        return self._spawn("fetch", params, sandbox, [requests])

    def inflate(self, requests: int) -> Worker:
        """An inflate worker (see :mod:`als.worker.inflate_job`)."""
        return self._spawn("inflate", {}, Sandbox(self._uid, self._gid, network=False, memory_bytes=_PARSE_MEMORY), [requests])

    def seal(self, kind: str, source: int, sink: int) -> Worker:
        """A seal worker (see :mod:`als.worker.seal_job`); the descriptors stay the caller's to close."""
        sandbox = Sandbox(self._uid, self._gid, network=False, memory_bytes=_SEAL_MEMORY)
        return self._spawn("seal", {"kind": kind}, sandbox, [source, sink])

    def find_toc(self, request: Mapping[str, Any], link: int) -> Worker:
        """A finder of a table of contents (see :mod:`als.worker.toc_job`)."""
        sandbox = Sandbox(self._uid, self._gid, network=False, memory_bytes=_PARSE_MEMORY)
        return self._spawn("find toc", request, sandbox, [link])

    def index_toc(self, request: Mapping[str, Any], link: int, rows: int | None = None) -> Worker:
        """An indexer of one (see :mod:`als.worker.toc_job`).

        :param rows: where it writes entries as they come, for an image to be made of them.
        """
        sandbox = Sandbox(self._uid, self._gid, network=False, memory_bytes=_SEAL_MEMORY)
        return self._spawn("index toc", request, sandbox, [link] if rows is None else [link, rows])

    def write_image(self, link: int, rows: int, image: int, where: Path, limits: Limits = DEFAULT_LIMITS) -> Worker:
        """A process of the privileged side, with all its rights, that writes a layer's image (see :mod:`als.worker.image_job`).

        :param where: the file that `image` is, for errors.
        """
        return self._spawn("image", {"limits": asdict(limits), "where": str(where)}, None, [link, rows, image])

    @property
    def running(self) -> int:
        """How many workers there are now: the zygote's children, as the kernel lists them (proc(5))."""
        zygote = self._zygote
        if zygote is None:
            return 0
        try:
            return len(Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children").read_bytes().split())
        except OSError:
            # It has just ended, or the kernel keeps no such list.
            return 0

    def start(self) -> None:
        """Have the zygote ready before the first worker is asked for."""
        with self._lock:
            self._ready()

    def close(self) -> None:
        """End the zygote, and with it every worker."""
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
            if self._zygote is not None:
                try:
                    self._zygote.wait(2.0)
                except subprocess.TimeoutExpired:
                    self._zygote.kill()
                    self._zygote.wait()
                self._zygote = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _spawn(self, job: str, params: Mapping[str, Any], sandbox: Sandbox | None, fds: Sequence[int]) -> Worker:
        """
        :param sandbox: None for what is no worker, and never sees a stranger's bytes as they came.
        """
        bounds = None if sandbox is None else asdict(sandbox)
        request = json.dumps({"job": job, "params": params, "sandbox": bounds}).encode()
        with self._lock, _in_memory(request) as document:
            control = self._ready()
            try:
                socket.send_fds(control, [b"{}"], [document, *fds])
                answer, received, _, _ = socket.recv_fds(control, 16, 1)
            except OSError as error:
                self._forget()
                raise WorkerError(f"no worker could be started: {error}") from error
            if not answer or not received:
                self._forget()
                raise WorkerError("no worker could be started", hint="look into the log for why the zygote ended")
        return Worker(received[0])

    def _ready(self) -> socket.socket:
        if self._zygote is not None and self._zygote.poll() is not None:
            self._forget()
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._empty.mkdir(mode=0o755, parents=True, exist_ok=True)
                self._zygote = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(theirs.fileno()), str(self._empty)],
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **_MALLOC},
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            threading.Thread(target=_relay_log, args=(self._zygote.stderr,), name="worker log", daemon=True).start()
            ours.settimeout(_START_TIMEOUT)
            self._control = ours
        return self._control

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
            self._zygote = None


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """A descriptor of an anonymous file that holds `data`: certificates alone can be more than a packet may."""
    fd = os.memfd_create("als-request", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        yield fd
    finally:
        os.close(fd)


def _relay_log(stderr: IO[bytes]) -> None:
    """What workers have to say goes through our own log: they may not write files, and a log may be one."""
    with stderr:
        for line in stderr:
            log.warning("%s", line.decode("utf-8", "backslashreplace").rstrip()[:2000])
