"""Processes that decompress for the privileged side: a pool of them, kept warm, each killed as soon as it misbehaves."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from als.errors import BadImage, DeadlineExceeded, WorkerError
from als.formats.codecs import Compression
from als.native.process import WORKER_GONE
from als.worker.client import Worker, Workers
from als.worker.frames import DATA, END, FrameReader
from als.worker.inflate_job import COMPRESSIONS, HEAD, UNIT
