"""What is live: the one place where it is decided what may be removed.

Pure: who holds what has been gathered before (:mod:`als.service.clients` asks podman and the kernel), here only the
conclusions are drawn.

- An *image* is live if a reference names it that the administrator asked for; if one does that a client's pull made or renewed
  in the last hour (:data:`LEASE_SECONDS`) that this boot has been running, or whose top layer a client names; or if a client
  holds one of its layers through the Additional Layer Store.
- A *chain* (a layer at its place in the image store) is live if a live image has it there, if a client names it as its own
  layer, its parent or its top layer, if something mounted shows it, or if a chain on top of it or in its folder is live.
- A *layer* (by DiffID) is live if a live image or a live chain consists of it, or something mounted shows it. A chain that is
  served before all of it is here names a DiffID that nobody has computed, and holds no layer by it.
- A *lazy layer* (by its key) is live if a live chain in the list is served from it, if something mounted shows it, or if a
  client names a chain that was ever served from it: its containers may have been started then, see
  :mod:`als.store.lazyfolders`. What is listed nowhere was made by a pull that was cut short.
- Objects are not decided upon: a layer's forest holds them by hardlink, and they go when the last one has gone.

Where a client could not be asked, every published chain is held for it: to keep what is dead costs space, to remove what is
live costs a container.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from als.model import chain
from als.model.digest import Digest
from als.model.manifest import toc_digest
from als.store.images import ImageRecord, RefRecord
from als.store.uptime import NEVER, Uptime
from als.store.uses import Use

LEASE_SECONDS = 3600.0
"""How long a client that was told of an image may take to write down for itself what it uses of it."""


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Who keeps something from being removed."""

    kind: str
    """reference, lookup, image, container, layer, mount or client."""
    name: str
    where: str = ""
    """The client's graph root; empty for our own."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" of {self.where}" if self.where else "")


@dataclass(frozen=True, slots=True)
class Claims:
    """What clients use."""

    chains: Mapping[str, frozenset[Holder]] = field(default_factory=dict)
    layers: Mapping[str, frozenset[Holder]] = field(default_factory=dict)
    """By DiffID in hex."""
    unknown: tuple[str, ...] = ()
    """Why some clients could not be asked; not empty: they may use whatever is published."""
    lazy: Mapping[str, frozenset[Holder]] = field(default_factory=dict)
    """By the keys of lazy layers."""
    lookups: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How often clients hold a layer through the Additional Layer Store as they say themselves, by reference and digest."""


@dataclass(frozen=True, slots=True)
class Published:
    """An entry of an image store's list, as far as it matters here."""

    chain_id: str
    parent: str
    diff_id: Digest | None
    """Of the layer that it consists of; None where that is only what an image says."""
    home: str = ""
    """The chain in whose folder it lies, if it has none of its own."""
    lazy: str = ""
    """The key of the lazy layer that it is served from, if not all of it is here."""


@dataclass(slots=True)
class Liveness:
    """What is live, and who holds it. Whatever is not named here is dead."""

    images: dict[Digest, set[Holder]] = field(default_factory=dict)
    chains: dict[str, set[Holder]] = field(default_factory=dict)
    layers: dict[Digest, set[Holder]] = field(default_factory=dict)
    lazy: dict[str, set[Holder]] = field(default_factory=dict)
    """By key."""


def decide(
    images: Mapping[Digest, ImageRecord],
    refs: Iterable[RefRecord],
    uses: Iterable[Use],
    published: Sequence[Published],
    claims: Claims,
    now: Uptime = NEVER,
    lazy: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Liveness:
    """Draw the conclusions.

    :param published: every chain in an image store's list; one that is in several may be given as often.
    :param lazy: by the key of each lazy layer, the chains that were ever served from it.
    """
    found = Liveness()
    listed = {entry.chain_id for entry in published}
    current: dict[str, Digest] = {}
    for ref in refs:
        current[ref.reference] = ref.digest
        if ref.digest in images:
            image = images[ref.digest]
            _hold_image(found, image, len(image.chain), _holders_of(ref, image, claims, now), listed)
    for use in uses:
        held = _image_of(use, images, current)
        if held is not None:
            image, count = held
            _hold_image(found, image, count, {Holder("lookup", use.reference)}, listed)
    for chain_id, holders in claims.chains.items():
        found.chains.setdefault(chain_id, set()).update(holders)
    if claims.unknown:
        for entry in published:
            found.chains.setdefault(entry.chain_id, set()).update(Holder("client", reason) for reason in claims.unknown)
    _hold_parents(found, {entry.chain_id: entry for entry in published})
    for hex_id, holders in claims.layers.items():
        found.layers.setdefault(Digest("sha256", hex_id), set()).update(holders)
    _hold_lazy(found, published, lazy, claims)
    return found


def settled(uses: Iterable[Use], claims: Claims, now: Uptime) -> list[tuple[Use, int]]:
    """Counts of clients that are wrong, each with the right one.

    What clients have written down is certain, so a lower count is raised. A higher one may belong to a pull that is under way;
    when nothing has changed in it for :data:`LEASE_SECONDS`, it belongs to nobody: the client was killed, or its graph root
    is gone, or a gesture was counted twice. While any client cannot be asked, nothing is lowered.
    """
    found = []
    counted = {(use.reference, use.digest): use for use in uses}
    for key in sorted(counted.keys() | claims.lookups.keys()):
        use, held = counted.get(key, Use(*key, 0)), claims.lookups.get(key, 0)
        forgotten = not claims.unknown and use.changed.is_over(LEASE_SECONDS, now)
        if use.count < held or (use.count > held and forgotten):
            found.append((use, held))
    return found


def clients_of(holders: Collection[Holder]) -> list[Holder]:
    """Those of some holders that are not our own references, in order."""
    return sorted(holder for holder in holders if holder.kind != "reference")


def _image_of(use: Use, images: Mapping[Digest, ImageRecord], current: Mapping[str, Digest]) -> tuple[ImageRecord, int] | None:
    """The image as a part of which a client's layer is served, and how many layers from the lowest that takes.

    The order is that of :meth:`als.service.core.Service.known_image`.
    """
    first = [images[current[use.reference]]] if current.get(use.reference) in images else []
    for image in [*first, *(images[digest] for digest in sorted(images))]:
        for index, layer in enumerate(image.manifest.layers):
            if use.digest in (str(layer.digest), str(toc_digest(layer))):
                return image, index + 1
    return None


def _holders_of(ref: RefRecord, image: ImageRecord, claims: Claims, now: Uptime) -> set[Holder]:
    """Who holds an image by its name."""
    if ref.asked or not ref.renewed.is_over(LEASE_SECONDS, now):
        return {Holder("reference", ref.reference)}
    if claims.unknown:
        return {Holder("client", reason) for reason in claims.unknown}
    tops = {*image.chain[-1:], *image.toc_chain[-1:]}
    return {holder for top in tops for holder in claims.chains.get(top, ())}


def _hold_image(found: Liveness, image: ImageRecord, count: int, holders: set[Holder], published: Collection[str]) -> None:
    if not holders:
        return
    found.images.setdefault(image.digest, set()).update(holders)
    for chain_ids, diff_id in list(zip(_ids_of(image, published), image.config.diff_ids, strict=True))[:count]:
        for chain_id in chain_ids:
            found.chains.setdefault(chain_id, set()).update(holders)
        found.layers.setdefault(diff_id, set()).update(holders)


def _ids_of(image: ImageRecord, published: Collection[str]) -> Iterator[set[str]]:
    """The chain IDs of each of an image's layers from the lowest on: the two that clients compute, and those that are published
    besides. A layer whose table of contents could not be verified is not listed by it, which changes all IDs above."""
    below = {""}
    for own, by_toc, diff_id, layer in zip(
        image.chain, image.toc_chain, image.config.diff_ids, image.manifest.layers, strict=True
    ):
        toc = toc_digest(layer)
        possible = {chain.chain_id(parent, diff_id) for parent in below}
        if toc is not None:
            possible |= {chain.toc_chain_id(parent, toc) for parent in below}
        below = {own, by_toc} | {each for each in possible if each in published}
        yield below


def _hold_parents(found: Liveness, published: Mapping[str, Published]) -> None:
    """Let whoever holds a chain hold what lies below it, and the layers that both consist of."""
    for start in [chain_id for chain_id in found.chains if chain_id in published]:
        holders = found.chains[start]
        todo, seen = [start], set[str]()
        while todo:
            entry = published.get(todo.pop())
            if entry is None or entry.chain_id in seen:
                continue
            seen.add(entry.chain_id)
            found.chains.setdefault(entry.chain_id, set()).update(holders)
            if entry.diff_id is not None:
                found.layers.setdefault(entry.diff_id, set()).update(holders)
            if entry.home:
                found.chains.setdefault(entry.home, set()).update(holders)
            # What is below the home is what is mounted, and has a folder of its own if the layer below was lazy once.
            todo += [entry.parent, entry.home]


def _hold_lazy(found: Liveness, published: Iterable[Published], lazy: Mapping[str, Collection[str]], claims: Claims) -> None:
    for entry in published:
        if entry.lazy and entry.chain_id in found.chains:
            found.lazy.setdefault(entry.lazy, set()).update(found.chains[entry.chain_id])
    for key, holders in claims.lazy.items():
        found.lazy.setdefault(key, set()).update(holders)
    for key, chains in lazy.items():
        # Our own references name an image, which is shown to whoever comes as what it is now.
        held = clients_of({holder for chain_id in chains for holder in found.chains.get(chain_id, ())})
        if held:
            found.lazy.setdefault(key, set()).update(held)
