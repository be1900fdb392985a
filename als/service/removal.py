"""Removing references and what nobody holds any more.

`remove` takes away a name, nothing else. `collect` (``als gc``) removes what is dead by :mod:`als.store.liveness`, in an order
that leaves, wherever it is interrupted by kill -9 or by the power, a store in which everything listed can be used, and nothing
but garbage besides, which the next run removes:

1. The store's lock is held alone: nothing is being made, and whatever is in tmp/ is an aborted attempt.
2. Dead chains leave the image stores' layers.json, and are out of sight. Were they only not listed, a client that pulls just
   now by itself would make its own layer in the folder of ours (:mod:`als.imagestore.appearance`). They are still whole.
3. Everybody is asked again. A client that began to use such a chain in between has it put back: podman writes down what a new
   container is made of while it holds the lock of its own layers.json, which we take to read it. Until then it cannot mount
   what it has not mounted yet.
4. Aborted attempts, and images without a holder: nothing refers to them.
5. Chains that are not listed and not in use: unmounted, then their folders go.
6. Layers that are in no live image and no listed chain, and lazy layers likewise: unmounted, and moved to tmp/. A daemon that
   is filling a lazy one is told by the missing folder; what it has read and written in between was its own.
7. Objects that no forest links to, i.e. whose link count is 1 but for the forests just moved. (The second copy of a file that
   has 65,000 links has no name in objects/ and goes with its forest.)
8. Lock files of layers, and the plain links below the FUSE mount that lead nowhere.
9. The lock is shared again, and what was moved to tmp/ is removed while others work.

Unmounting is lazy: a container that runs keeps what it has mounted, whatever is removed here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from als.errors import AlsError
from als.fetch.pull import layer_names
from als.imagestore.records import is_lazy
from als.imagestore.tree import ImageStore
from als.model.digest import Digest
from als.mount.unmounting import unmount_all, unmount_below
from als.service import listing
from als.store import lazyfolders
from als.store.images import ImageRecord
from als.store.layout import Layout
from als.store.liveness import Claims, Holder, Liveness, Published, clients_of, decide, settled
from als.store.lock import excluding, sharing
from als.store.refused import store_errors
from als.store.reserve import reserve_given_up
from als.store.trash import Trash, remove_all
from als.store.uptime import Uptime

if TYPE_CHECKING:
    from als.service.core import Service

WAIT_SECONDS = 60.0
"""How long to wait for pulls that are under way."""
_FAILURE_WAIT_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Removed:
    """What became of an image whose reference was removed."""

    references: tuple[str, ...]
    digest: Digest
    holders: tuple[Holder, ...]
    """Clients that use something of the image."""
    names: tuple[str, ...]
    """Other references to it."""
    unknown: tuple[str, ...]
    """Clients that could not be asked."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What was, or would be, removed."""

    images: tuple[Digest, ...] = ()
    chains: tuple[str, ...] = ()
    layers: tuple[Digest, ...] = ()
    objects: int = 0
    bytes: int = 0
    """On disk, of objects and of their second copies."""
    attempts: int = 0
    """Aborted attempts in tmp/."""
    links: int = 0
    """Plain links below the FUSE mount."""
    unknown: tuple[str, ...] = ()
    """Clients that could not be asked, so that everything published was kept for them."""
    lazy: tuple[str, ...] = ()
    """Keys of lazy layers; of those that were refused, all but the reason goes."""


def survey(service: Service, unlisted: Sequence[Published] = ()) -> tuple[Liveness, Claims]:
    """Who holds what now. The caller holds the store's lock, shared or alone.

    :param unlisted: chains that were taken out of the list just now and may go back.
    :raises StoreDamaged: a record cannot be read, so what it holds is not known.
    """
    images = {image.digest: image for image in service.images.all()}
    published = [*published_layers(service), *unlisted]
    chains = {entry.chain_id for entry in published}
    chains.update(chain_id for store in service.image_stores for chain_id in store.unlisted())
    chains.update(chain_id for image in images.values() for chain_id in (*image.chain, *image.toc_chain))
    lazy = {key: lazyfolders.chains_of(service.layout.lazy / key) for key in lazyfolders.keys(service.layout)}
    chains.update(chain_id for served in lazy.values() for chain_id in served)
    claims = service.clients.claims(chains)
    return decide(images, service.images.refs(), service.uses.all(), published, claims, Uptime.now(), lazy), claims


def settle_uses(service: Service) -> int:
    """Put right what clients are counted to hold; how many counts were wrong. The caller holds the store's lock."""
    # Read before the clients are: what is counted in between is not judged by what they said before.
    uses = service.uses.all()
    claims = service.clients.claims(())
    ours = {str(name) for image in service.images.all() for name in layer_names(image)}
    count = 0
    for use, right in settled(uses, claims, Uptime.now()):
        # Clients may have other layer stores beside ours.
        if (use.count or use.digest in ours) and service.uses.settle(use, right):
            log.info("%s %s is held %d times by clients, not %d", use.reference, use.digest, right, use.count)
            count += 1
    return count


def published_layers(service: Service) -> list[Published]:
    """The image stores' lists; what is in both is there twice."""
    return [_published(store, entry) for store in service.image_stores for entry in store.published().values()]


def _published(store: ImageStore, entry: Mapping[str, object]) -> Published:
    chain_id = str(entry["id"])
    home = store.home(chain_id)
    diff_id = None if is_lazy(entry) else Digest.parse(str(entry.get("diff-digest")))
    lazy = store.lazy_key(chain_id) or ""
    return Published(chain_id, str(entry.get("parent", "")), diff_id, "" if home == chain_id else home, lazy)


def remove(service: Service, name: str) -> Removed:
    """Take a reference away; given a digest, all references to that image.

    :raises NotFound: the store knows no such image.
    """
    with sharing(service.layout.lock):
        image = service.find(name)
        everything = [ref.reference for ref in service.images.refs() if ref.digest == image.digest]
        ref = service.ref_of(name)
        gone = everything if ref is None else [ref.reference]
        for reference in gone:
            service.images.forget(reference)
        # At once: what clients have made of it keeps its layers, but nobody is to begin with it any more.
        with reserve_given_up(service.layout):
            listing.update(service)
        live, claims = survey(service)
        return Removed(
            tuple(gone),
            image.digest,
            tuple(clients_of(_holders(live, image))),
            tuple(reference for reference in everything if reference not in gone),
            claims.unknown,
        )


def _holders(live: Liveness, image: ImageRecord) -> set[Holder]:
    held = [live.chains.get(chain_id, set()) for chain_id in (*image.chain, *image.toc_chain)]
    held += [live.layers.get(diff_id, set()) for diff_id in image.config.diff_ids]
    return {holder for holders in held for holder in holders}


def collect(service: Service, *, dry_run: bool = False, wait: float = WAIT_SECONDS) -> Garbage:
    """Remove what is dead, or with `dry_run` only say what that is.

    :param wait: seconds to wait for pulls that are under way.
    :raises LockTimeout: they took longer.
    :raises StoreDamaged: the store has to be repaired first (``als fsck --repair``).
    """
    if dry_run:
        with excluding(service.layout.lock, timeout=wait):
            return _garbage(service, *survey(service))[0]
    trash = Trash(service.layout)
    with store_errors(service.layout.root), ExitStack() as held:
        with excluding(service.layout.lock, timeout=wait):
            held.enter_context(reserve_given_up(service.layout))
            settle_uses(service)
            # Whoever took a reference away may have died before it left the lists, which must name nothing that goes now.
            listing.update(service)
            live, claims = _unlist(service, *survey(service))
            found, objects = _garbage(service, live, claims)
            for path in aborted(service.layout):
                trash.put(path)
            for ref in service.images.refs():
                if ref.digest in found.images:
                    # Nobody asked for it by name, and the client that brought it uses it no more.
                    service.images.forget(ref.reference)
            for digest in found.images:
                service.images.discard(digest, trash)
            for store in service.image_stores:
                store.unpublish(found.chains)
            for diff_id in found.layers:
                unmount_all(service.layers.mount_point(diff_id))
                service.layers.discard(diff_id, trash)
            for key in found.lazy:
                folder = service.layout.lazy / key
                unmount_below(lazyfolders.mount_point(folder), lazily=True)
                lazyfolders.discard(folder, trash)
            for path in objects:
                trash.put(path)
            _sweep_locks(service.layout.locks)
            service.links.stale(remove=True)
            # A pull may have failed for want of space just when it had to be listed.
            listing.update(service)
        with sharing(service.layout.lock):
            trash.empty()
    return found


def _unlist(service: Service, live: Liveness, claims: Claims) -> tuple[Liveness, Claims]:
    """Take dead chains out of the list, but for those that turn out to be in use; what is live thereafter."""
    dead = {entry.chain_id for entry in published_layers(service) if entry.chain_id not in live.chains}
    if not dead:
        return live, claims
    taken = [(store, store.unlist(dead)) for store in service.image_stores]
    live, claims = survey(service, [_published(store, entry) for store, entries in taken for entry in entries])
    for store, entries in taken:
        store.relist([entry for entry in entries if str(entry["id"]) in live.chains])
    return live, claims


def _garbage(service: Service, live: Liveness, claims: Claims) -> tuple[Garbage, list[Path]]:
    """What is dead, and the objects that go with it; it may still be listed."""
    there = {entry.chain_id for entry in published_layers(service)}
    there.update(chain_id for store in service.image_stores for chain_id in store.unlisted())
    chains = there - live.chains.keys()
    layers = [diff_id for diff_id in service.layers.ids() if diff_id not in live.layers]
    lazy = [key for key in lazyfolders.keys(service.layout) if key not in live.lazy]
    forests = [service.layers.forest(diff_id) for diff_id in layers]
    forests += [forest for key in lazy for forest in lazyfolders.forests_of(service.layout.lazy / key)]
    forests += [forest for chain in chains for store in service.image_stores if (forest := store.forest(chain)) is not None]
    freed = _freed(service.layout.objects, [*forests, service.layout.tmp])
    garbage = Garbage(
        tuple(digest for digest in service.images.digests() if digest not in live.images),
        tuple(sorted(chains)),
        tuple(layers),
        freed.inodes,
        freed.bytes,
        len(aborted(service.layout)),
        service.links.stale({service.layers.mount_point(diff_id) for diff_id in layers}),
        claims.unknown,
        tuple(lazy),
    )
    return garbage, freed.objects


@dataclass(frozen=True, slots=True)
class _Freed:
    inodes: int
    bytes: int
    objects: list[Path]
    """Names that nobody links to any more."""


def _freed(objects: Path, forests: Sequence[Path]) -> _Freed:
    """What goes when some forests go."""
    dying: dict[int, int] = {}
    last: dict[int, tuple[int, int]] = {}
    for forest in forests:
        for entry in _files(forest):
            status = entry.stat(follow_symlinks=False)
            dying[status.st_ino] = dying.get(status.st_ino, 0) + 1
            last[status.st_ino] = (status.st_nlink, status.st_blocks * 512)
    names: list[Path] = []
    for entry in _files(objects):
        status = entry.stat(follow_symlinks=False)
        if status.st_nlink - dying.get(status.st_ino, 0) == 1:
            dying[status.st_ino] = status.st_nlink
            last[status.st_ino] = (status.st_nlink, status.st_blocks * 512)
            names.append(Path(entry.path))
    freed = [size for inode, (links, size) in last.items() if dying[inode] == links]
    return _Freed(len(freed), sum(freed), names)


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder that exists, without a Path for each: there may be millions."""
    folders = [str(folder)] if folder.exists() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield entry


def aborted(layout: Layout) -> list[Path]:
    """Attempts that were cut short: whatever is in tmp/, and references and records that have not got their names.

    Not those of uses/: clients' counts change also while the store's lock is held alone.
    """
    return [*layout.tmp.iterdir(), *layout.refs.glob(".*"), *layout.images.glob("*/.*"), *layout.layers.glob("*/.*")]


def sweep(layout: Layout) -> None:
    """Remove aborted attempts. The caller holds the store's lock alone."""
    for path in aborted(layout):
        remove_all(path)


def _sweep_locks(locks: Path) -> None:
    # Layers' locks are only taken under the store's shared lock, so nobody holds one or waits for one.
    for name in os.listdir(locks):
        if len(name) == 64:
            (locks / name).unlink()


def free_after_failure(service: Service) -> None:
    """After a pull that failed for lack of space: remove what it had completed, unless others are at work."""
    try:
        collect(service, wait=_FAILURE_WAIT_SECONDS)
    except AlsError as error:
        log.warning("what the pull had completed stays until `als gc`: %s", error)
