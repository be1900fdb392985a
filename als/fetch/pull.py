"""From a reference to complete layers in the store: which image it names, and the making of its missing layers in parallel."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from als.errors import Abandoned, AlsError, NotFound
from als.fetch.blobcheck import check_blob
from als.fetch.choosing import Foresee, images_of, overlook
from als.fetch.ingest import Advance, ingest
from als.fetch.progress import Progress, Silent
from als.fetch.source import ImageSource, LocalImages, RegistryImages
from als.fetch.tocs import TailKept, check_layer
from als.formats.discovery import find_formats, format_of
from als.model.counting import Counters, NotCounted, Saved
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import Descriptor, toc_digest
from als.model.platform import Platform
from als.model.reference import Reference, Transport
from als.registry.archive import OciArchive
from als.registry.environment import Environment
from als.registry.layout import OciLayout
from als.registry.resolve import resolve
from als.registry.settings import Proxies, Settings
from als.registry.source import RawManifest
from als.store.images import ImageRecord
from als.store.layers import Layers, Staging
from als.store.layout import Layout, TarSplitForm
from als.store.lock import locked
from als.store.refused import store_errors
from als.verity.policy import UNSEALED, Policy
from als.worker.client import Workers

log = logging.getLogger(__name__)

_LAYER_LOCK_TIMEOUT = 900.0


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference names at its source now."""

    reference: Reference
    image: ImageRecord
    listed: Digest
    """Of the manifest or index that the reference itself names."""
    listed_data: bytes
    """Its bytes."""
    source: ImageSource


@dataclass(frozen=True, slots=True)
class _Made:
    """The outcome of making one layer."""

    descriptor: Descriptor
    diff_id: Digest
    staging: Staging | None
    """None: the store had the layer already, or it failed."""
    resources: ExitStack
    """What is to be let go of once the layer is published."""
    fetched: bool = False
    """Whether its blob came from the source."""
    error: AlsError | None = None


class Puller:
    """Makes layers. Thread-safe.

    :param stall: seconds without progress after which a download is given up.
    :param parallel: how many layers are made at once.
    """

    def __init__(
        self,
        layout: Layout,
        layers: Layers,
        workers: Workers,
        platform: Platform,
        environment: Callable[[], Environment],
        *,
        stall: float,
        parallel: int,
        limits: Limits = DEFAULT_LIMITS,
        leave_out: Collection[str] = (),
        tar_splits: Collection[TarSplitForm] = (),
        counters: Counters | None = None,
        policy: Policy = UNSEALED,
    ) -> None:
        """
        :param environment: the one whose credentials and registries count now.
        :param leave_out: ``HOST:PORT`` of mirrors in registries.conf that are not to be asked.
        :param tar_splits: what the clients of the image stores will need of each layer.
        :param counters: told of the bytes that come, and of those that need not.
        :param policy: whether layers are sealed with fs-verity.
        """
        self._layout = layout
        self._layers = layers
        self._workers = workers
        self._platform = platform
        self._environment = environment
        self._stall = stall
        self._parallel = parallel
        self._limits = limits
        self._leave_out = leave_out
        self._tar_splits = tar_splits
        self._counters = counters or NotCounted()
        self._policy = policy
        self._formats = find_formats()

    @contextmanager
    def resolved(
        self,
        reference: Reference,
        has: Digest | None = None,
        *,
        listed: RawManifest | None = None,
        anonymous: bool = False,
        near: ImageSource | None = None,
        given_up: Callable[[], bool] = _never,
        foresee: Foresee = overlook,
    ) -> Iterator[Resolved]:
        """Ask the source which image a reference names.

        :param has: the blob (or TOC) digest of a layer the image is known to have. Of an index, the image for this machine
            is taken, and if that has no such layer, whichever has: a client may have asked for another platform.
        :param listed: what the reference names, where that was asked for already.
        :param anonymous: ask without credentials.
        :param near: the same repository, through connections that are open already; not closed here.
        :param given_up: asked while nothing comes; True ends the wait.
        :param foresee: told of the manifest before the configuration is here, and so perhaps of another platform's.
        :raises NotFound: there is no such image, or none with that layer.
        """
        source = self._open(reference, anonymous, given_up)
        try:
            raw = listed or source.manifest(reference.tag_or_digest)
            found = images_of(
                near or source, raw, self._platform, str(reference), any_platform=has is not None, foresee=foresee
            )
            for image in found:
                # Also finds what is wrong with their annotations, before anything is fetched.
                names = layer_names(image)
                if has is None or has in names:
                    yield Resolved(reference, image, raw.digest, raw.data, source)
                    return
            raise NotFound(f"no image there has the layer {has}", where=str(reference))
        finally:
            source.close()

    def fill(
        self,
        resolved: Resolved,
        ready: Callable[[Sequence[Digest]], None],
        progress: Progress,
        given_up: Callable[[], bool] = _never,
        *,
        besides: Collection[Digest] = (),
    ) -> None:
        """Make every layer of an image that the store lacks. The caller holds the store's shared lock.

        Layers are made in parallel; those that are complete while others are being written to disk are published
        together, because a wait for the disk costs the same for one as for many.

        :param ready: called with DiffIDs as soon as those layers are in the store.
        :param given_up: asked again and again; True ends what is under way.
        :param besides: DiffIDs of layers that need not be made.
        :raises AlsError: the first thing that failed; layers that were complete by then are kept.
        """
        image = resolved.image
        pairs = zip(image.config.diff_ids, image.manifest.layers, strict=True)
        todo = {(diff_id, layer.digest): layer for diff_id, layer in pairs if diff_id not in besides}
        expected = Counter(diff_id for diff_id, _ in todo)
        failures: list[AlsError] = []
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="layer") as pool:
            # The largest first: begun last, it would be made alone, with a processor for each of the others idle.
            order = sorted(todo.items(), key=lambda each: each[1].size, reverse=True)
            pending = {pool.submit(self._made, resolved, layer, key[0], progress, given_up) for key, layer in order}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                made = [future.result() for future in done if not future.cancelled()]
                failures += [each.error for each in made if each.error is not None]
                try:
                    self._show([each for each in made if each.error is None], expected, ready, progress)
                except AlsError as error:
                    # The others are still to be waited for: each holds a lock and a folder.
                    failures.append(error)
                if failures:
                    # Ends what is being fetched as well: nobody waits for the rest of an image that cannot be.
                    resolved.source.close()
                    for future in pending:
                        future.cancel()
        if failures:
            raise failures[0]

    def fetch_again(self, reference: Reference, image: ImageRecord, index: int) -> None:
        """Make the objects again that the store lacks of a layer that it has. The caller shares the store's lock.

        :raises AlsError: it could not be done.
        """
        source = self._open(reference, False, _never)
        try:
            resolved = Resolved(reference, image, image.digest, image.manifest_data, source)
            layer, diff_id = image.manifest.layers[index], image.config.diff_ids[index]
            with self._layers.stage() as staging, store_errors(self._layout.root):
                self._make(resolved, layer, diff_id, staging, Silent(), _never)
        finally:
            source.close()

    def _show(
        self,
        made: Sequence[_Made],
        expected: Counter[Digest],
        ready: Callable[[Sequence[Digest]], None],
        progress: Progress,
    ) -> None:
        """
        :param expected: by how many more blobs each layer is to be known; one that the image names by two is ready after both.
        """
        with ExitStack() as stack:
            for each in made:
                stack.push(each.resources)
            if staged := [each.staging for each in made if each.staging is not None]:
                self._layers.show(staged)
        for each in made:
            progress.done(each.descriptor, fetched=each.fetched)
            if not each.fetched:
                self._counters.saved(Saved.LAYER, each.descriptor.size)
        expected.subtract(each.diff_id for each in made)
        if found := [each.diff_id for each in made if not expected[each.diff_id]]:
            ready(found)

    def _made(
        self,
        resolved: Resolved,
        descriptor: Descriptor,
        diff_id: Digest,
        progress: Progress,
        given_up: Callable[[], bool],
    ) -> _Made:
        """A layer that is complete but not published yet; its lock and its staging folder are held."""
        with ExitStack() as stack:
            try:
                staging, fetched = None, False
                if not self._layers.has(diff_id):
                    lock = self._layout.locks / diff_id.hex
                    stack.enter_context(locked(lock, timeout=_LAYER_LOCK_TIMEOUT, give_up=given_up))
                    if not self._layers.has(diff_id):
                        fetched = True
                        progress.begins(descriptor)
                        staging = stack.enter_context(self._layers.stage())
                        with store_errors(self._layout.root):
                            self._make(resolved, descriptor, diff_id, staging, progress, given_up)
                if staging is None:
                    stack.close()
                    with store_errors(self._layout.root):
                        fetched = self._check_again(resolved, descriptor, diff_id, progress, given_up)
                return _Made(descriptor, diff_id, staging, stack.pop_all(), fetched)
            except AlsError as error:
                where = f"{resolved.reference} {error.where or descriptor.digest}"
                located = type(error)(error.what, where=where, hint=error.hint)
                located.__cause__ = error
                return _Made(descriptor, diff_id, None, ExitStack(), error=located)

    def _make(
        self,
        resolved: Resolved,
        descriptor: Descriptor,
        diff_id: Digest,
        staging: Staging,
        progress: Progress,
        given_up: Callable[[], bool],
    ) -> None:
        format_name = format_of(self._formats, descriptor.media_type, descriptor.annotations).name
        source = resolved.source if toc_digest(descriptor) is None else TailKept(resolved.source)
        record = ingest(
            source,
            descriptor,
            diff_id,
            format_name,
            staging,
            self._workers,
            _advance(descriptor, progress, given_up),
            stall=self._stall,
            limits=self._limits,
            tar_splits=self._tar_splits,
            policy=self._policy,
        )
        toc = self._verified_toc(resolved, source, descriptor, staging.image)
        staging.complete(record if toc is None else dataclasses.replace(record, tocs=(toc,)))

    def _check_again(
        self,
        resolved: Resolved,
        descriptor: Descriptor,
        diff_id: Digest,
        progress: Progress,
        given_up: Callable[[], bool],
    ) -> bool:
        """A layer that the store has may come as a blob that was not seen yet, or with a table of contents that was not, or
        could not be read then.

        :returns: whether the blob was fetched for that.
        """
        toc = toc_digest(descriptor)
        source = resolved.source if toc is None else TailKept(resolved.source)
        # Named by no DiffID: the layer's own lock is taken with this one held, and two images could name each other's.
        lock = self._layout.locks / Digest.of(f"check {descriptor.digest}".encode()).hex
        fetched = False
        if not self._layers.get(diff_id).is_held_by(descriptor.digest):
            with locked(lock, timeout=_LAYER_LOCK_TIMEOUT, give_up=given_up):
                record = self._layers.get(diff_id)
                if not record.is_held_by(descriptor.digest):
                    fetched = True
                    progress.begins(descriptor)
                    advance = _advance(descriptor, progress, given_up)
                    check_blob(source, descriptor, record, self._workers, advance, stall=self._stall, limits=self._limits)
                    with locked(self._layout.locks / diff_id.hex, timeout=_LAYER_LOCK_TIMEOUT, give_up=given_up):
                        self._layers.add_blob(diff_id, descriptor.digest)
        if toc is None or toc in self._layers.get(diff_id).tocs:
            return fetched
        if self._verified_toc(resolved, source, descriptor, self._layers.image(diff_id)) is not None:
            with locked(self._layout.locks / diff_id.hex, timeout=_LAYER_LOCK_TIMEOUT):
                self._layers.add_toc(diff_id, toc)
        return fetched

    def _verified_toc(self, resolved: Resolved, source: ImageSource, descriptor: Descriptor, image: Path) -> Digest | None:
        """The digest of a layer's table of contents, if that tells of what its EROFS image shows. If not, the layer is none
        the worse for it: it only cannot be found by that digest."""
        toc = toc_digest(descriptor)
        if toc is None:
            return None
        tag = resolved.reference.tag or ""
        try:
            check_layer(source, descriptor, image, self._workers, tag=tag, stall=self._stall, limits=self._limits)
        except AlsError as error:
            log.warning("%s: a layer is not served by its table of contents %s: %s", resolved.reference, toc, error)
            return None
        return toc

    def repository(
        self,
        reference: Reference,
        *,
        anonymous: bool = False,
        settings: Settings | None = None,
        given_up: Callable[[], bool] = _never,
    ) -> RegistryImages:
        """The repository of a registry that a reference names an image of, as configured now.

        :raises ConfigError: the configuration is malformed.
        :raises RegistryDenied: the registry is blocked.
        """
        environment = self._environment()
        endpoints = resolve(reference, environment, leave_out=self._leave_out, anonymous=anonymous)
        settings = dataclasses.replace(settings or Settings(), proxies=Proxies.from_environment(environment))
        params: dict[str, object] = {
            "endpoints": [endpoint.to_json() for endpoint in endpoints],
            "settings": settings.to_json(),
        }
        where = str(reference)
        return RegistryImages(self._workers, params, where, stall=self._stall, given_up=given_up, counters=self._counters)

    def _open(self, reference: Reference, anonymous: bool, given_up: Callable[[], bool]) -> ImageSource:
        if reference.transport is Transport.OCI:
            return LocalImages(OciLayout(reference.path))
        if reference.transport is Transport.OCI_ARCHIVE:
            return LocalImages(OciArchive(reference.path))
        return self.repository(reference, anonymous=anonymous, given_up=given_up)


def _advance(descriptor: Descriptor, progress: Progress, given_up: Callable[[], bool]) -> Advance:
    def advance(count: int) -> None:
        if given_up():
            raise Abandoned("nobody waits for it any more", where=str(descriptor.digest))
        progress.advances(descriptor, count)

    return advance


def names_of(layer: Descriptor) -> list[Digest]:
    """The digests by which a client may ask for a layer: its blob's, and its table of contents' if it has one."""
    toc = toc_digest(layer)
    return [layer.digest] if toc is None else [layer.digest, toc]


def layer_names(image: ImageRecord) -> list[Digest]:
    """Every digest by which a client may ask for one of an image's layers; a layer listed twice appears twice."""
    return [name for layer in image.manifest.layers for name in names_of(layer)]
