"""Workers that do what they should, and a writer of images that waits until it is let."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from als.worker import fetch_job, image_job, inflate_job
from als.worker.__main__ import main
from als.worker.parse_job import ParseJob
from als.worker.toc_job import TocJobs

LET = "ALS_TEST_LET"
"""The environment has the path of a file; where that is, images are written."""


def patiently(params: Mapping[str, Any], fds: Sequence[int]) -> None:
    while not Path(os.environ[LET]).exists():
        time.sleep(0.05)
    image_job.run(params, fds)


if __name__ == "__main__":
    tocs = TocJobs()
    jobs = {"fetch": fetch_job.run, "inflate": inflate_job.run, "find toc": tocs.find, "index toc": tocs.index}
    main(int(sys.argv[1]), sys.argv[2], {**jobs, "parse": ParseJob(), "image": patiently})
