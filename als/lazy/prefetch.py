"""What a container of an image will read first, before it has read anything.

Three sources, the surest first: what was read in earlier runs (:mod:`als.lazy.profile`), what the layer's builder says
(:func:`promised_units`), and what follows from the image's command: :class:`EntryFiles`, which does with names what the
kernel and the loader will do with files. It looks the program up, follows ``#!`` lines, and follows each ELF file to its
interpreter and to all libraries, over symlinks across layers and never out of the image. What a runtime reads beside is known
by its name (:mod:`als.lazy.runtimes`).

The bytes that this needs are themselves not here yet. So it never waits: :meth:`EntryFiles.advance` goes as far as the bytes
that are here allow, for all files independently, and returns what is wanted more than before; it is called again when something
arrived. Each file has a generator of its own, so libraries are looked into in parallel, and a closure costs as many round trips
as it is deep, not as it has files. What is found is what a container would be *tried* with: anything malformed is not followed,
and costs nobody anything.

Where it runs: in the daemon. It handles bytes that were verified to be the image's but may be made to hurt; all it does with
them is to read numbers of fixed size and bounded strings (als.lazy.elf, als.lazy.ldcache), look names up in trees that are
here anyway, and ask for files of this image. It opens no file, starts nothing, and stops at `_FILES` files and `_LOOKUPS`
lookups. A worker without privileges would need the trees of all layers, or a conversation about each name.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace

from als.errors import BadImage
from als.formats.index import LayerIndex
from als.lazy.command import Command
from als.lazy.elf import HEAD_BYTES, MAGIC, Elf, Span, read_elf
from als.lazy.ldcache import CACHE_MAX, CACHE_PATH, Cache, parse_cache
from als.lazy.libraries import (
    MUSL_PATH_MAX,
    Loaded,
    Surroundings,
    glibc_paths,
    is_musl,
    musl_is_itself,
    musl_path_file,
    musl_paths,
)
from als.lazy.runtimes import RuntimeFile, runtime_files
from als.lazy.shebang import indirect_program, interpreter_line, words_of
from als.model.merged import Found
from als.model.paths import show
from als.model.tree import FileType, Inode

log = logging.getLogger("als.lazy")

_FILES = 512
"""Files that are looked into."""
_LOOKUPS = 20_000
"""Paths that are tried, half a second's worth."""
_SCRIPTS_MAX = 5
"""Interpreters of interpreters that the kernel follows (fs/exec.c)."""
_RUNTIME_MAX = 1 << 20
"""Of a file that a runtime reads: what is larger is something else."""
_USUAL_MAX = 8 << 20
_ARGUMENTS = 64
"""Words of the command that may name files."""

Lookup = Callable[[bytes], Found | None]
"""What is at a path of the image, symlinks followed: :func:`als.model.merged.find_merged`."""
Read = Callable[[Found, Span], bytes | None]
"""Verified bytes of a file, or None while they are not here. The span lies within the file."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Bytes of a file that will be needed."""

    file: Found
    """Its node is an inode with content that is not within the metadata."""
    span: Span
    gate: bool = False
    """More files become known when these bytes are here: they go before everything else that is prefetched."""


Answers = Generator[tuple[tuple[Found, Span], ...], tuple[bytes, ...], None]
"""A file being looked into: yields what it needs, is sent the bytes, ends."""


class _Exhausted(Exception):
    """The image led to too many files; nothing more is looked into."""


@dataclass(slots=True)
class _Waiting:
    work: Answers
    needs: tuple[tuple[Found, Span], ...]


class EntryFiles:
    """The files that an image's command needs; not thread-safe.

    :param lookup: the merged view of the image's layers.
    :param read: the bytes that are here.
    :param levels: the glibc-hwcaps folders that this machine's processor can use, the best first.
    :param usual: what any program is likely to need.
    """

    def __init__(
        self,
        lookup: Lookup,
        read: Read,
        command: Command,
        levels: tuple[bytes, ...] = (),
        usual: tuple[RuntimeFile, ...] = (),
    ) -> None:
        self._lookup = lookup
        self._read = read
        self._command = command
        self._usual = usual
        self._around = Surroundings(command.library_path, command.folder, levels)
        self._waiting: list[_Waiting] = []
        self._wishes: list[Wish] = []
        self._asked: set[tuple[bytes, Span]] = set()
        self._programs: set[bytes] = set()
        self._files = 0
        self._lookups = 0
        self._cache: Cache | None = None
        self._started = False

    @property
    def finished(self) -> bool:
        """Whether everything is known: no arrival can add a wish."""
        return self._started and not self._waiting

    def advance(self) -> list[Wish]:
        """Go on as far as the bytes that are here allow; what is wanted more than at the last call, the most urgent first."""
        try:
            if not self._started:
                self._started = True
                self._begin()
            while self._step():
                continue
        except _Exhausted:
            log.info("an image's command leads to more than %d files or %d lookups", _FILES, _LOOKUPS)
            self._waiting.clear()
        wishes, self._wishes = self._wishes, []
        # A stable sort: among gates, and among the others, the order in which the process will come to them.
        return sorted(wishes, key=lambda wish: not wish.gate)

    # -- stepping

    def _step(self) -> bool:
        """Let each file go on whose bytes are here; whether one did."""
        waiting, self._waiting = self._waiting, []
        moved = False
        for position, each in enumerate(waiting):
            answers = self._answers(each.needs)
            if answers is None:
                self._waiting.append(each)
                continue
            moved = True
            try:
                self._go_on(each.work, answers)
            except _Exhausted:
                self._waiting += waiting[position + 1 :]
                raise
        return moved

    def _answers(self, needs: tuple[tuple[Found, Span], ...]) -> tuple[bytes, ...] | None:
        answers: list[bytes] = []
        for file, span in needs:
            inline = _inode(file).data
            data = self._read(file, span) if inline is None else inline[span.offset : span.offset + span.length]
            if data is None:
                return None
            answers.append(data)
        return tuple(answers)

    def _go_on(self, work: Answers, answers: tuple[bytes, ...] | None = None) -> None:
        """Run a file's generator up to its next wait; what comes first of what it needs is asked for."""
        try:
            needs = next(work) if answers is None else work.send(answers)
        except StopIteration:
            return
        except BadImage as error:
            # Another file of this name may be looked at by the caller; the process itself would fail here.
            log.debug("not followed: %s", error)
            return
        self._waiting.append(_Waiting(work, needs))
        for file, span in needs:
            self._want(file, span, gate=True)

    def _want(self, file: Found, span: Span, *, gate: bool = False) -> None:
        content = _inode(file).content
        if content is not None and _inode(file).data is None and (content.name, span) not in self._asked:
            self._asked.add((content.name, span))
            self._wishes.append(Wish(file, span, gate))

    def _file(self, path: bytes) -> Found | None:
        """The regular file with bytes in it that is at a path, if one is."""
        self._lookups += 1
        if self._lookups > _LOOKUPS:
            raise _Exhausted
        found = self._lookup(path)
        if found is None or not isinstance(found.node, Inode) or found.node.type is not FileType.FILE or not found.node.size:
            return None
        return found

    def _look_into(self, file: Found) -> None:
        self._files += 1
        if self._files > _FILES:
            raise _Exhausted
        # A small file is its own head, which is asked for next.
        self._want(file, Span(0, _inode(file).size), gate=_inode(file).size <= HEAD_BYTES)

    # -- programs and scripts

    def _begin(self) -> None:
        arguments = self._command.arguments
        if not arguments:
            return
        cache = self._file(CACHE_PATH)
        if cache is not None and self._program_file(arguments[0]) is not None:
            # Every library waits for it, so it is asked for together with the program.
            self._go_on(self._load_cache())
        self._start(arguments[0], 0)
        words = [word for argument in arguments[1:] for word in words_of(argument)]
        for word in words[:_ARGUMENTS]:
            self._argument(word)

    def _argument(self, word: bytes) -> None:
        """What follows the program is often a script it runs, or a program that an entrypoint's script runs in its place."""
        if self._program_file(word) is not None:
            self._start(word, 0)
            return
        file = self._file(self._absolute(word))
        if file is not None:
            self._look_into(file)

    def _start(self, name: bytes, depth: int) -> None:
        file = self._program_file(name)
        if file is not None and file.path not in self._programs and depth <= _SCRIPTS_MAX:
            self._programs.add(file.path)
            self._look_into(file)
            self._go_on(self._program(file, depth))
            usual, self._usual = self._usual, ()
            for needed in usual:
                self._want_first(needed, _USUAL_MAX)
            for needed in runtime_files(file.path, self._command.locale):
                self._want_first(needed, _RUNTIME_MAX)

    def _want_first(self, needed: RuntimeFile, most: int) -> None:
        """All of a file, if it has at most so many bytes."""
        found = next((each for each in map(self._file, needed.names) if each is not None), None)
        if found is not None and _inode(found).size <= most:
            self._want(found, Span(0, _inode(found).size))

    def _program_file(self, name: bytes) -> Found | None:
        """The file that execvp(3) would start."""
        if b"/" in name:
            candidates: Iterator[bytes] = iter((self._absolute(name),))
        else:
            candidates = (self._absolute(folder) + b"/" + name for folder in self._command.path if name)
        for path in candidates:
            file = self._file(path)
            if file is not None and _inode(file).mode & 0o111:
                return file
        return None

    def _absolute(self, path: bytes) -> bytes:
        return path if path.startswith(b"/") else self._command.folder + b"/" + path

    def _program(self, file: Found, depth: int) -> Answers:
        (head,) = yield ((file, _head(file)),)
        if head.startswith(b"#!"):
            interpreter, argument = interpreter_line(head)
            if interpreter:
                self._start(self._absolute(interpreter), depth + 1)
                program = indirect_program(interpreter, argument)
                if program:
                    self._start(program, depth + 1)
        elif head.startswith(MAGIC):
            elf = yield from self._elf(file, head)
            yield from self._process(file, elf)

    def _elf(self, file: Found, head: bytes) -> Generator[tuple[tuple[Found, Span], ...], tuple[bytes, ...], Elf]:
        reader = read_elf(head, _inode(file).size)
        try:
            spans = next(reader)
            while True:
                spans = reader.send((yield tuple((file, span) for span in spans)))
        except StopIteration as stop:
            elf = stop.value
            assert isinstance(elf, Elf)
            return elf
        except BadImage as error:
            raise BadImage(error.what, where=f"/{show(file.path)}") from error

    # -- processes and their libraries

    def _process(self, file: Found, elf: Elf) -> Answers:
        if not elf.interpreter:
            return
        loader = self._file(self._absolute(elf.interpreter))
        process = _Process({elf.interpreter.rpartition(b"/")[2]}, {file.path})
        if loader is not None:
            process.files.add(loader.path)
            self._look_into(loader)
        if is_musl(elf.interpreter):
            process.musl = True
            paths = self._file(musl_path_file(elf.interpreter))
            if paths is not None and _inode(paths).size <= MUSL_PATH_MAX:
                (process.folders,) = yield ((paths, Span(0, _inode(paths).size)),)
        program = Loaded(elf, _folder(file.path))
        self._load(process, (*self._command.preload, *elf.needed), program)

    def _load(self, process: _Process, names: Iterable[bytes], by: Loaded) -> None:
        for name in names:
            if name not in process.names and not (process.musl and musl_is_itself(name)):
                process.names.add(name)
                self._go_on(self._library(process, name, by))

    def _library(self, process: _Process, name: bytes, by: Loaded) -> Answers:
        if not process.musl and self._cache is None:
            yield from self._load_cache()
        for path in self._paths(process, name, by):
            file = self._file(path)
            if file is None:
                continue
            if file.path in process.files:
                return
            self._look_into(file)
            (head,) = yield ((file, _head(file)),)
            elf = yield from self._fitting(file, head, by)
            if elf is not None:
                process.files.add(file.path)
                process.names.add(elf.soname)
                self._load(process, elf.needed, Loaded(elf, _folder(path), by))
                return

    def _fitting(
        self, file: Found, head: bytes, by: Loaded
    ) -> Generator[tuple[tuple[Found, Span], ...], tuple[bytes, ...], Elf | None]:
        """What the file says, if it is one that can be loaded beside `by`; a loader goes on to its next folder if not."""
        try:
            elf = yield from self._elf(file, head)
        except BadImage as error:
            log.debug("not loaded: %s", error)
            return None
        return elf if elf.machine == by.elf.machine else None

    def _paths(self, process: _Process, name: bytes, by: Loaded) -> Iterator[bytes]:
        if process.musl:
            return musl_paths(name, by, self._around, process.folders)
        return glibc_paths(name, by, replace(self._around, cache=self._cache or Cache()))

    def _load_cache(self) -> Answers:
        file = self._file(CACHE_PATH)
        cache = Cache()
        if file is not None and _inode(file).size <= CACHE_MAX:
            (data,) = yield ((file, Span(0, _inode(file).size)),)
            if self._cache is not None:
                return  # Of all who waited for it, one has read it.
            try:
                cache = parse_cache(data)
            except BadImage as error:
                log.debug("not used: %s", error)
        self._cache = cache


@dataclass(slots=True)
class _Process:
    """What has been loaded so far, as a loader keeps it: a name that was found once is not looked for again."""

    names: set[bytes]
    files: set[bytes]
    musl: bool = False
    folders: bytes = b""


def _inode(file: Found) -> Inode:
    assert isinstance(file.node, Inode)
    return file.node


def _head(file: Found) -> Span:
    return Span(0, min(HEAD_BYTES, _inode(file).size))


def _folder(path: bytes) -> bytes:
    return b"/" + path.rpartition(b"/")[0].strip(b"/")


def promised_units(index: LayerIndex) -> range:
    """The units that the layer's builder put in front because a container reads them first; they are next to each other.

    That is what lies before eStargz's landmark. Empty where there is none, or where the builder marked the layer as one of
    which nothing should be fetched ahead of its use; that mark is no reason not to fetch what :class:`EntryFiles` found.
    """
    if index.prefetch.unwanted:
        return range(0)
    return range(bisect_left(range(index.units), index.prefetch.end, key=lambda number: index.unit(number).offset))
