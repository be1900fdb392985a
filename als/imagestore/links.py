"""Plain symlinks below the FUSE mount point: where a finished layer is to be found while no daemon runs.

A client that pulled a layer through the Additional Layer Store alone has ``ROOT/store/<ref>/<digest>/diff`` in its own
records. With the daemon stopped nothing is mounted at ROOT/store, and these links answer instead. There is no ``info``
and no ``blob``, so a new lookup fails there at once and the client pulls as ever.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from als.errors import KernelError
from als.model.digest import Digest
from als.native.mounts import clone_mount
from als.store.layout import Layout


class PlainLinks:
    """The links of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def place(self, reference: str, links: Sequence[tuple[Digest, Path]]) -> None:
        """Let each layer of an image, by digest, lead to its mounted directory.

        :raises KernelError: what lies below the FUSE mount cannot be reached.
        """
        folder = base64.b64encode(reference.encode()).decode()
        with self._below_mounts() as top:
            for digest, target in links:
                path = f"{folder}/{digest}"
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, 0o755, dir_fd=top)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o755, dir_fd=top)
                with contextlib.suppress(FileExistsError):
                    os.symlink(target, f"{path}/diff", dir_fd=top)

    def stale(self, dying: Collection[Path] = (), *, remove: bool = False) -> int:
        """How many links lead to layers that are gone; they and the folders that were for them alone are removed if asked.

        :param dying: mounted directories that count as gone.

        :raises KernelError: what lies below the FUSE mount cannot be reached.
        """
        count = 0
        with self._below_mounts() as top:
            for folder in os.listdir(top):
                with _opened(folder, top) as inner:
                    for name in os.listdir(inner):
                        count += _is_stale(name, inner, dying) and (not remove or _removed(name, inner))
                    empty = remove and not os.listdir(inner)
                if empty:
                    os.rmdir(folder, dir_fd=top)
        return count

    @contextlib.contextmanager
    def _below_mounts(self) -> Iterator[int]:
        """A descriptor of the mount point's own directory, whatever is mounted on it."""
        try:
            root = clone_mount(self._layout.root)
        except OSError as error:
            raise KernelError(
                f"open_tree: {error.strerror}", where=str(self._layout.root), hint="Linux 5.2 and CAP_SYS_ADMIN are needed"
            ) from error
        try:
            top = os.open(self._layout.mount_point.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        finally:
            os.close(root)
        try:
            yield top
        finally:
            os.close(top)


@contextlib.contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_stale(name: str, folder: int, dying: Collection[Path]) -> bool:
    """Whether the link in a layer's folder is missing or leads nowhere."""
    try:
        target = Path(os.readlink(f"{name}/diff", dir_fd=folder))
        return target in dying or not os.path.lexists(target)
    except FileNotFoundError:
        return True


def _removed(name: str, folder: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{name}/diff", dir_fd=folder)
    os.rmdir(name, dir_fd=folder)
    return True
