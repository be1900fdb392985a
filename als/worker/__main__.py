"""The zygote: ``python -m als.worker FD`` forks a worker whenever its parent asks on the socket FD.

It loads all modules that workers need, and then does nothing but receive requests, fork, and hand back a pidfd. It keeps
root, because entering a sandbox needs it, and never sees a byte that did not come from its parent.

What it forks without a sandbox is no worker (:mod:`als.worker.image_job`).
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from als.native.process import set_parent_death_signal
from als.worker import fetch_job, image_job, inflate_job, seal_job, stream_job
from als.worker.parse_job import ParseJob
from als.worker.sandbox import Sandbox, enter
from als.worker.toc_job import TocJobs

Job = Callable[[Mapping[str, Any], Sequence[int]], None]
_MAX_FDS = 4
_GARBAGE = 50_000
"""Objects that may gather before a worker looks for cycles, which hardly anything here makes. Python's own 700 cost a quarter
of the time in which an indexer reads a table of contents."""


def main(control_fd: int, empty_folder: str, jobs: Mapping[str, Job]) -> None:
    """Serve fork requests until the parent closes its end.

    :param jobs: what a worker does, by the name in its request.
    """
    # Collecting garbage would write to pages that workers share with us, and they would get copies: a tenth of their time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)
    # Children are reaped by the kernel; their parent's parent learns of their end through a pidfd.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=control_fd) as control:
        while True:
            packet, fds, _, _ = socket.recv_fds(control, 16, _MAX_FDS)
            if not packet:
                return
            pid = os.fork()
            if pid == 0:
                control.close()
                document, *others = fds
                _work(jobs, json.loads(_read_all(document)), others, empty_folder)
            pidfd = os.pidfd_open(pid)
            socket.send_fds(control, [b"{}"], [pidfd])
            for fd in (pidfd, *fds):
                os.close(fd)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read()


def _work(jobs: Mapping[str, Job], request: Mapping[str, Any], fds: Sequence[int], empty_folder: str) -> None:
    """Be a worker; never returns."""
    status = 1
    try:
        if request["sandbox"] is None:
            set_parent_death_signal(signal.SIGKILL)
        else:
            enter(Sandbox(**request["sandbox"]), empty_folder)
        jobs[request["job"]](request["params"], fds)
        status = 0
    except BrokenPipeError:
        # Whoever asked for this work has lost interest; that is not our failure.
        status = 0
    finally:
        if status:
            logging.getLogger("als.worker").exception("worker %s failed", request["job"])
        logging.shutdown()
        os._exit(status)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s[%(process)d]: %(message)s")
    jobs: dict[str, Job] = {"inflate": inflate_job.run, "seal": seal_job.run, "stream": stream_job.run, "image": image_job.run}
    tocs = TocJobs()
    jobs |= {"find toc": tocs.find, "index toc": tocs.index}
    main(int(sys.argv[1]), sys.argv[2], {"parse": ParseJob(), "fetch": fetch_job.run, **jobs})
    # Nothing is left to do; taking all modules down in an orderly manner would let our parent wait for it.
    logging.shutdown()
    os._exit(0)
