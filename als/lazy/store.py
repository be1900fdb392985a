"""The lazy layers of one store: made, found again after a restart, and forgotten."""

from __future__ import annotations

import logging
import operator
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from als.errors import Abandoned, AlsError, BadImage, LimitExceeded, NotFound, StoreError, Unsupported
from als.formats.index import HAS_SHA256, Chunk, LayerIndex
from als.formats.indexfile import pack, unpack
from als.formats.units import IN_MEMORY, gaps_of
from als.lazy.drawing import ImageWriter
from als.lazy.engine import Engine
from als.lazy.layer import LazyLayer
from als.lazy.origin import Opener, SharedOrigin
from als.lazy.partial import SEALED, LazyFolder
from als.lazy.record import LazyRecord, key_of
from als.lazy.rest import RestLog
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import Descriptor
from als.registry.settings import Settings
from als.store.layout import Layout
from als.store.lazyfolders import REFUSED
from als.store.objects import file_sha256
from als.store.refused import store_errors

log = logging.getLogger("als.lazy")

_IMAGES_AT_ONCE = 4
PATIENCE = Settings(connect_timeout=5.0, read_timeout=8.0, deadline=15.0, attempts=2, connections=24)
"""How registries are spoken to where a reader waits: it is the scheduler that tries again, and that knows for whom."""


class LazyStore:
    """Thread-safe; a context manager. The caller holds the store's lock shared."""

    def __init__(self, layout: Layout, engine: Engine, opener: Opener) -> None:
        self._layout = layout
        self._engine = engine
        self._open = opener
        self._making = threading.Lock()
        """Held while a layer is opened, which may take seconds; nobody who looks for another waits for that."""
        self._lock = threading.Lock()
        self._layers: dict[str, LazyLayer] = {}
        self._images: dict[str, Future[tuple[Path, str]]] = {}
        """Of layers that were opened and not drawn yet: where each is once it is written, and its sha256."""
        self._closed = False
        self._writing = ThreadPoolExecutor(_IMAGES_AT_ONCE, thread_name_prefix="lazy image")
        self._origins: dict[str, SharedOrigin] = {}

    def open(
        self,
        reference: str,
        host: str,
        descriptor: Descriptor,
        diff_id: Digest,
        index: LayerIndex,
        format_name: str,
        limits: Limits = DEFAULT_LIMITS,
        writer: ImageWriter | None = None,
    ) -> LazyLayer:
        """A lazy layer whose bytes can be fetched from now on, and whose image is being written; the one that is there already,
        if it was made before.

        :param host: under which what is known of the link is shared.
        :param index: was found to be what the manifest commits to.
        :param writer: of the layer's image, that may have begun with it; whatever happens, it is closed here.
        :raises Unsupported: the layer cannot be read lazily.
        :raises BadImage: it was refused before.
        :raises StoreError: the disk refused.
        """
        with ExitStack() as unused:
            if writer is not None:
                unused.callback(writer.close)
            _check(index, limits)
            key = key_of(diff_id, descriptor.digest, index)
            with self._lock:
                known = self._layers.get(key)
            if known is not None:
                if known.folder.path.exists():
                    return known
                # Removed by gc just now: what it takes to be here is not.
                self.forget(known)
            folder = self._layout.lazy / key
            if (folder / REFUSED).exists():
                raise BadImage("this layer was refused before", where=f"{reference} {descriptor.digest}")
            if folder.exists():
                # The store had the layer and has lost it again.
                (folder / SEALED).unlink(missing_ok=True)
            else:
                self._begin_image(key, index, limits, writer, unused)
                self._make(folder, LazyRecord(reference, descriptor, diff_id, format_name, ""), index)
            return self._serve(key, LazyFolder(self._layout, folder).record(), index, host)

    def image_writer(self, limits: Limits = DEFAULT_LIMITS) -> ImageWriter:
        """For the image of a layer that will be opened; to be given to :meth:`open`, or closed.

        :raises AlsError: there is none.
        """

        def check() -> None:
            if self._closed:
                raise Abandoned("als is being stopped", where=str(self._layout.lazy))

        check()
        path = self._layout.tmp / f"image-{secrets.token_hex(6)}"
        return ImageWriter(path, self._engine.workers, limits, check)

    def draw(self, layer: LazyLayer, limits: Limits = DEFAULT_LIMITS) -> None:
        """Have a layer's metadata image written, unless it is there. Before that, nobody may be shown the layer.

        :raises BadImage: the index makes no layer. As after every other error, none is left of it.
        :raises LimitExceeded: there is more of something than the limits allow.
        :raises StoreError: the disk refused.
        :raises Abandoned: als is being stopped.
        """
        with layer.drawing:
            if layer.refused is not None:
                raise layer.refused
            if layer.record.image_sha256:
                return
            try:
                self._put_image(layer, limits)
            except AlsError as error:
                # Others may wait for the same layer, to be told.
                layer.refuse(error)
                self.forget(layer)
                shutil.rmtree(layer.folder.path, ignore_errors=True)
                raise
        log.info("%s %s is served before it is here", layer.where, layer.digest, extra=layer.about("lazy"))

    def _put_image(self, layer: LazyLayer, limits: Limits) -> None:
        image = self._begin_image(layer.key, layer.index, limits, None, ExitStack())
        try:
            path, sha256 = image.result()
        finally:
            with self._lock:
                self._images.pop(layer.key, None)
        with store_errors(path):
            path.rename(layer.folder.image)
        record = replace(layer.record, image_sha256=sha256)
        layer.folder.put_record(record)
        layer.record = record

    def _begin_image(
        self, key: str, index: LayerIndex, limits: Limits, writer: ImageWriter | None, unused: ExitStack
    ) -> Future[tuple[Path, str]]:
        """Have an image written, unless that has begun; by this writer, which then is taken from `unused`."""
        with self._lock:
            if self._closed:
                raise Abandoned("als is being stopped", where=key)
            if key not in self._images:
                unused.pop_all()
                self._images[key] = self._writing.submit(self._new_image, index, limits, writer)
            return self._images[key]

    def _new_image(self, index: LayerIndex, limits: Limits, writer: ImageWriter | None = None) -> tuple[Path, str]:
        """A layer's image somewhere below ROOT/tmp, and its sha256."""
        writer = writer or self.image_writer(limits)
        return writer.path, writer.write(index)

    def origin(self, reference: str, host: str) -> SharedOrigin:
        """Where the layers of a reference come from: one connection pool for its tables of contents and what follows."""
        with self._lock:
            return self._origins.setdefault(reference, SharedOrigin(reference, host, self._open))

    def leave(self, reference: str) -> None:
        """End the connections of a reference that no layer needs."""
        with self._lock:
            if any(each.record.reference == reference for each in self._layers.values()):
                return
            origin = self._origins.pop(reference, None)
        if origin is not None:
            origin.close()

    def resume(self, host_of: Callable[[str], str], limits: Limits = DEFAULT_LIMITS) -> list[LazyLayer]:
        """Open what was there before a restart; what cannot be opened is logged and left out.

        :param host_of: the host of a reference.
        """
        found: list[LazyLayer] = []
        for path in sorted(self._layout.lazy.iterdir()):
            if path.name.startswith(".") or (path / REFUSED).exists() or (path / SEALED).exists():
                continue
            try:
                folder = LazyFolder(self._layout, path)
                record = folder.record()
                index = unpack((path / "index").read_bytes())
                if key_of(record.diff_id, record.descriptor.digest, index) != path.name:
                    raise BadImage("not what its name says", where=str(path))
                if not record.image_sha256:
                    # The start of it was cut short: nobody has been shown it.
                    shutil.rmtree(path)
                    continue
                if not _has_image(folder, record):
                    # Nobody waited until it had reached the disk.
                    self._replace_image(folder, index, limits, record.image_sha256)
                found.append(self._serve(path.name, record, index, host_of(record.reference)))
            except (AlsError, OSError) as error:
                log.warning("a lazy layer cannot be resumed: %s: %s", path.name, error)
        return found

    def get(self, key: str) -> LazyLayer:
        """A layer that is served.

        :raises NotFound: there is none of this key.
        """
        with self._lock:
            layer = self._layers.get(key)
        if layer is None:
            raise NotFound("no such lazy layer", where=key)
        return layer

    def all(self) -> list[LazyLayer]:
        """Every layer that is served."""
        with self._lock:
            return list(self._layers.values())

    def refuse(self, layer: LazyLayer, error: AlsError) -> None:
        """Serve a layer no more, and never again; its folder holds nothing but the reason from now on."""
        layer.refuse(error)
        with store_errors(layer.folder.path):
            (layer.folder.path / REFUSED).write_text(f"{error}\n", "utf-8")
        self._forget(layer)

    def sealed(self, layer: LazyLayer) -> None:
        """The store has the layer now. Its folder stays until gc finds that no container uses it any more."""
        with store_errors(layer.folder.path):
            (layer.folder.path / SEALED).touch()
        self.forget(layer)

    def forget(self, layer: LazyLayer) -> None:
        """Serve a layer no more."""
        layer.close()
        self._forget(layer)

    def close(self) -> None:
        """Stop serving; what is here stays."""
        with self._lock:
            self._closed = True
        self._writing.shutdown()
        for layer in self.all():
            layer.close()
            self._forget(layer)
        with self._lock:
            origins = list(self._origins.values())
            self._origins.clear()
        for origin in origins:
            origin.close()

    def __enter__(self) -> LazyStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- within

    def _make(self, folder: Path, record: LazyRecord, index: LayerIndex) -> None:
        staging = self._layout.tmp / f"{int(time.time()):x}-{secrets.token_hex(6)}"
        try:
            with store_errors(staging):
                staging.mkdir(mode=0o700)
                LazyFolder.prepare(staging, self._layout.lazy_files / folder.name)
                with (staging / "index").open("xb") as file:
                    file.writelines(pack(index))
                LazyFolder(self._layout, staging).put_record(record)
                try:
                    staging.rename(folder)
                except OSError:
                    # Somebody else was quicker, and made the same.
                    if not folder.exists():
                        raise
        finally:
            if staging.exists():
                shutil.rmtree(staging)

    def _replace_image(self, folder: LazyFolder, index: LayerIndex, limits: Limits, expected: str) -> None:
        """
        :param expected: what its sha256 was before.
        """
        path, sha256 = self._new_image(index, limits)
        with store_errors(folder.path):
            if sha256 != expected:
                path.unlink()
                raise StoreError("the index of a lazy layer makes another image than before", where=str(folder.path))
            path.rename(folder.image)

    def _serve(self, key: str, record: LazyRecord, index: LayerIndex, host: str) -> LazyLayer:
        with self._making:
            with self._lock:
                if key in self._layers:
                    return self._layers[key]
            origin = self.origin(record.reference, host)
            folder = LazyFolder(self._layout, self._layout.lazy / key)
            layer = LazyLayer(key, record, index, folder, self._engine, origin, self._offer, self._borrow)
            if index.tar_split is None:
                layer.keep_rest(RestLog(folder.path / "rest", index.units + sum(1 for _ in gaps_of(index))))
            layer.start()
            with self._lock:
                self._layers[key] = layer
            return layer

    def _offer(self, objects: Sequence[bytes]) -> None:
        for layer in self.all():
            if not layer.content.done():
                layer.offer(objects)

    def _borrow(self, asker: LazyLayer, name: bytes, chunk: Chunk) -> bytes | None:
        for layer in self.all():
            if layer is not asker:
                data = layer.lend(name, chunk)
                if data is not None:
                    return data
        return None

    def _forget(self, layer: LazyLayer) -> None:
        with self._lock:
            self._layers.pop(layer.key, None)
            self._images.pop(layer.key, None)
        self.leave(layer.record.reference)


def _check(index: LayerIndex, limits: Limits) -> None:
    """Units and chunks are held in memory while they are verified, and holes cost a blob nothing.

    :raises Unsupported: a chunk or unit is too large, or a file has no digest.
    :raises LimitExceeded: the files are too large for the blob.
    """
    columns = index.columns
    largest = max(map(operator.sub, columns.unit_ends, columns.unit_starts), default=0)
    large = (number for number, size in enumerate(columns.sizes) if size > IN_MEMORY)
    chunks = (chunk.size for number in large for chunk in index.chunks(number) if not chunk.hole)
    if max(largest, max(columns.chunk_inner, default=0), max(chunks, default=0)) > IN_MEMORY:
        raise Unsupported(f"a chunk or unit of more than {IN_MEMORY} bytes")
    if any(size and not flags & HAS_SHA256 for size, flags in zip(columns.sizes, columns.flags, strict=True)):
        # The recipe of a complete layer names its files by these, and so do the names in its forest.
        raise Unsupported("files without a digest of the whole")
    if max((gap.length for gap in gaps_of(index)), default=0) > limits.toc_bytes:
        raise Unsupported(f"more than {limits.toc_bytes} bytes between two units")
    if sum(columns.sizes) > min(limits.layer_bytes, limits.expansion_floor + limits.expansion * index.blob_size):
        raise LimitExceeded("its files are larger than allowed")


def _has_image(folder: LazyFolder, record: LazyRecord) -> bool:
    """Whether the image is there, and what it was when it was written."""
    if not record.image_sha256 or not folder.image.exists():
        return False
    with store_errors(folder.path):
        return file_sha256(folder.image).hex() == record.image_sha256
