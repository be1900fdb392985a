"""A FUSE daemon of als over a backend that is nothing but files: ``python -m tests.harness.fuse_backend FOLDER MOUNTPOINT``.

FOLDER holds, named by `layer_name`, ``layers/<name>/`` with ``diff/``, ``info`` and ``blob``.
An optional file ``error`` in a layer makes its lookup fail with that text, ``gated`` makes it wait at ``FOLDER/gate``;
``broken`` makes its blob fail when read, ``gated-blob`` makes it wait. Each call is a line of ``FOLDER/calls``. When it
serves, it prints ``ready``, and ``FOLDER/pid`` has its process ID.

FOLDER also holds ``lazy/<key>/<name>``, the files of lazy layers, and beside such a file ``<name>.gated`` where its reads wait
until somebody writes a line to ``FOLDER/lazy-gate``, ``<name>.error`` where they fail with that text, ``<name>.short`` where
they lack a byte. Files of equal content have one identity.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import threading
from concurrent.futures import Future
from pathlib import Path

from als.errors import AlsError, NotFound, RegistryUnavailable
from als.fuse.backend import ByteFile, ServedLayer
from als.fuse.calls import Deadlines
from als.fuse.serve import Outliving, ServeOptions, run
from als.keeper.manager import Manager


def layer_name(reference: str, digest: str) -> str:
    """The folder of a layer."""
    return hashlib.sha256(f"{reference}\0{digest}".encode()).hexdigest()


class DiskFile:
    """A file as a `ByteFile`."""

    def __init__(self, path: Path, backend: FolderBackend) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.fd).st_size
        self.path = path
        self.backend = backend

    def read_at(self, offset: int, length: int) -> bytes:
        if (self.path.parent / "gated-blob").exists():
            self.backend.note("read", self.path.name)
            self.backend.wait_at_gate()
        if (self.path.parent / "broken").exists():
            raise RegistryUnavailable("connection reset", where=f"bytes {offset}-{offset + length}")
        return os.pread(self.fd, length, offset)

    def close(self) -> None:
        os.close(self.fd)
        self.backend.note("close", self.path.name)


class FolderLazyFiles:
    """The lazy files of the module's docstring. One thread answers what had to wait."""

    def __init__(self, backend: FolderBackend) -> None:
        self._backend = backend
        self._folder = backend.folder / "lazy"
        self._lock = threading.Lock()
        self._waiting: list[tuple[Future[bytes], Path, int, int]] = []
        # For writing as well, so that the last writer's end is not the end.
        gate = os.open(backend.folder / "lazy-gate", os.O_RDWR)
        threading.Thread(target=self._answer_all, args=(gate,), daemon=True).start()

    def has_layer(self, key: str) -> bool:
        return (self._folder / key).exists()

    def size(self, key: str, name: bytes) -> int:
        return self._path(key, name).stat().st_size

    def identity(self, key: str, name: bytes) -> bytes:
        return hashlib.sha256(self._path(key, name).read_bytes()).digest()

    def read(self, key: str, name: bytes, offset: int, length: int) -> Future[bytes]:
        path, future = self._path(key, name), Future[bytes]()
        self._backend.note("lazy-read", key, name.hex(), str(offset), str(length))
        if path.with_suffix(".gated").exists():
            with self._lock:
                self._waiting.append((future, path, offset, length))
        else:
            _answer(future, path, offset, length)
        return future

    def _path(self, key: str, name: bytes) -> Path:
        path = self._folder / key / name.hex()
        if not path.exists():
            raise NotFound("no such file", where=f"{key} {name.hex()}")
        return path

    def _answer_all(self, gate: int) -> None:
        while os.read(gate, 1):
            with self._lock:
                waiting, self._waiting = self._waiting, []
            for each in waiting:
                _answer(*each)
            self._backend.note("lazy-gate", str(len(waiting)))


def _answer(future: Future[bytes], path: Path, offset: int, length: int) -> None:
    if not future.set_running_or_notify_cancel():
        return
    error = path.with_suffix(".error")
    try:
        if error.exists():
            raise RegistryUnavailable(error.read_text(), where=path.name)
        with path.open("rb", buffering=0) as file:
            future.set_result(os.pread(file.fileno(), length - path.with_suffix(".short").exists(), offset))
    except AlsError as failure:
        future.set_exception(failure)


class FolderBackend:
    """The backend of the module's docstring."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lazy = FolderLazyFiles(self)

    def note(self, *words: str) -> None:
        """Append a line to the list of calls, at once and whole."""
        with (self.folder / "calls").open("ab", buffering=0) as calls:
            calls.write((" ".join(words) + "\n").encode())

    def wait_at_gate(self) -> None:
        """Until somebody opens the FIFO for writing."""
        with (self.folder / "gate").open("rb"):
            pass

    def _layer(self, reference: str, digest: str) -> Path:
        return self.folder / "layers" / layer_name(reference, digest)

    def lookup(self, reference: str, digest: str) -> ServedLayer | None:
        self.note("lookup", reference, digest)
        folder = self._layer(reference, digest)
        if (folder / "gated").exists():
            self.wait_at_gate()
        if (folder / "error").exists():
            raise RegistryUnavailable((folder / "error").read_text(), where=reference)
        if not (folder / "diff").exists():
            return None
        return ServedLayer(folder.name, folder / "diff", (folder / "info").read_bytes(), (folder / "blob").stat().st_size)

    def use(self, reference: str, digest: str) -> None:
        self.note("use", reference, digest)

    def release(self, reference: str, digest: str) -> None:
        self.note("release", reference, digest)

    def open_blob(self, reference: str, digest: str) -> ByteFile:
        self.note("open_blob", reference, digest)
        return DiskFile(self._layer(reference, digest) / "blob", self)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds for a lookup and for a read")
    parser.add_argument("--max-waiting", type=int, default=960)
    parser.add_argument("--max-lazy-reads", type=int, default=4096)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    options = ServeOptions(
        deadlines=Deadlines(lookup=arguments.deadline, read=arguments.deadline, lazy_read=arguments.deadline),
        max_waiting=arguments.max_waiting,
        max_lazy_reads=arguments.max_lazy_reads,
    )
    manager = Manager.of(os.environ, os.getpid())

    def ready() -> None:
        (arguments.folder / "pid").write_text(str(os.getpid()))
        # First: whoever reads the line may kill us, and we shall not have died before we were ready.
        if manager is not None:
            manager.ready()
        print("ready", flush=True)

    outliving = Outliving(arguments.folder)
    if manager is not None:
        outliving = Outliving(arguments.folder, manager, manager.alive, manager.alive_seconds)
    run(FolderBackend(arguments.folder), arguments.mountpoint, outliving, ready=ready, options=options)


if __name__ == "__main__":
    main()
