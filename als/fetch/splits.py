"""The tar-split files of a layer that is being made, written while its stream passes by.

Everything that they need is in memory at that moment: the bytes between the files, and each file's content, so that its
checksum costs next to nothing. To make them afterwards (:mod:`als.store.tarsplit`), each file has to be read once more.

What a file will be called in the finished tree is not known yet. The form IMAGE therefore takes the names of the archive, and
the tree is asked at the end. Where it has something else under one of them (a later entry replaced it, or a symlink is on
the way), or where a content that was not kept has no name left, no file is made here, but when one is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType

from als.model.tree import Inode, Node
from als.store.layers import Staging
from als.store.layout import TarSplitForm
from als.store.tarsplit import LONGEST_NAME, TarSplitWriter, name_in_forest

Data = bytes | bytearray | memoryview


class Splits:
    """A layer's tar-split files: told of every byte of the stream, in order."""

    def __init__(self, staging: Staging, forms: Collection[TarSplitForm]) -> None:
        """
        :param forms: those that will be needed.
        """
        self._splits = [_MAKERS[form](staging.tar_split(form)) for form in forms]

    def __enter__(self) -> Splits:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for split in self._splits:
            split.close()

    def segment(self, data: Data) -> None:
        """Bytes that are no whole file."""
        for split in self._splits:
            split.segment(data)

    def file(self, path: bytes, sha256: bytes, size: int, crc: int, data: Data | None) -> None:
        """All of a file whose content is an object.

        :param path: as the archive has it.
        :param crc: see :func:`als.store.tarsplit.checksum`.
        :param data: its bytes, if they are still there.
        """
        for split in self._splits:
            split.file(path, sha256, size, crc, data)

    def finish(self, names: Mapping[bytes, Node]) -> None:
        """The stream has ended, and was what it should be.

        :param names: all of the tree.
        """
        for split in self._splits:
            split.finish(names)


class _Split(ABC):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._out = path.open("xb")
        self._writer: TarSplitWriter | None = TarSplitWriter(self._out)

    def segment(self, data: Data) -> None:
        if self._writer is not None:
            self._writer.segment(data)

    def file(self, path: bytes, sha256: bytes, size: int, crc: int, data: Data | None) -> None:
        if self._writer is None:
            return
        name = self._name(path, sha256)
        if name is not None:
            self._writer.file(name, size, crc)
        elif data is not None:
            self._writer.segment(data)
        else:
            self._give_up()

    def finish(self, names: Mapping[bytes, Node]) -> None:
        if self._writer is not None and self._holds(names):
            self._writer.close()
            self.close()
        else:
            self._give_up()

    def close(self) -> None:
        self._out.close()

    def _give_up(self) -> None:
        self._writer = None
        self.close()
        self._path.unlink(missing_ok=True)

    @abstractmethod
    def _name(self, path: bytes, sha256: bytes) -> bytes | None:
        """A name for a content that was not given out yet."""

    @abstractmethod
    def _holds(self, names: Mapping[bytes, Node]) -> bool:
        """Whether every name that was given out leads to its content."""


class _ImageSplit(_Split):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._assumed: dict[bytes, bytes] = {}

    def _name(self, path: bytes, sha256: bytes) -> bytes | None:
        name = path.removeprefix(b"./")
        if name in self._assumed or len(name) > LONGEST_NAME:
            return None
        self._assumed[name] = sha256
        return name

    def _holds(self, names: Mapping[bytes, Node]) -> bool:
        return all(_leads_to(names.get(name), sha256) for name, sha256 in self._assumed.items())


class _ForestSplit(_Split):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._used: set[bytes] = set()

    def _name(self, path: bytes, sha256: bytes) -> bytes | None:
        if sha256 in self._used:
            return None
        self._used.add(sha256)
        return name_in_forest(sha256)

    def _holds(self, names: Mapping[bytes, Node]) -> bool:
        return True


_MAKERS: Mapping[TarSplitForm, type[_ImageSplit | _ForestSplit]] = {
    TarSplitForm.IMAGE: _ImageSplit,
    TarSplitForm.FOREST: _ForestSplit,
}


def _leads_to(node: Node | None, sha256: bytes) -> bool:
    """Whether a name stands for a file with that content, which is not in the image itself."""
    return isinstance(node, Inode) and node.data is None and node.content is not None and node.content.sha256 == sha256
