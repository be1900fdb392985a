"""What a start does before anything is served: it brings back what a reboot or a crash took.

Nothing that is found damaged keeps the daemon from starting. What cannot be read is taken out of service first
(:mod:`als.service.torn`), and each step that fails all the same is said in the log and left out: layers that are sound are
served whatever became of others.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from als.errors import AlsError, LockTimeout
from als.model.digest import Digest
from als.mount.propagation import ensure_shared
from als.mount.table import MountWatch, find_mount, read_mounts
from als.service import listing
from als.service.core import Service
from als.service.fsck import Problem
from als.service.removal import sweep
from als.service.repair import repair_all
from als.service.torn import torn
from als.store.images import RefRecord
from als.store.lock import locked, sharing
from als.store.uptime import boot_id
from als.store.uses import Use

_CHECKED = "checked"
"""File in RUN that names the boot after which the sizes of files were looked at."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mounts:
    """How many layers are listed that als has to mount, and the chain IDs of those that are not mounted."""

    layers: int
    missing: tuple[str, ...]


def bring_back_mounts(service: Service) -> Mounts:
    """Mount what is listed and not mounted; why a layer could not be, the log says."""
    ensure_shared(service.layout.root)
    with sharing(service.layout.lock):
        service.diff_n.remount()
        mounts = read_mounts()
        listed = tuple(service.diff_n.published())
    return Mounts(len(listed), tuple(each for each in listed if find_mount(service.diff_n.diff(each), mounts) is None))


def recover(service: Service) -> None:
    """Bring back mounts and publications; remove what was left half made."""
    put_right(service)
    bring_back(service)


def bring_back(service: Service) -> None:
    """Bring back mounts and publications.

    This waits for locks of clients (:mod:`als.imagestore.lock`), and clients that hold them may wait for the FUSE face: where
    one is taken over, that has to answer first.
    """
    ensure_shared(service.layout.root)
    with _going_on("clients are not written down"):
        service.clients.note()
    with _going_on("layers are not mounted"):
        bring_back_mounts(service)
    with _going_on("what clients hold is not known"):
        for use in service.uses.all():
            with _going_on(f"{use.reference} {use.digest} is not served"):
                _serve_again(service, use)
    with MountWatch() as mounts:
        for ref in _references(service):
            with _going_on(f"{ref.reference} is not served"), sharing(service.layout.lock):
                service.publish(service.images.get(ref.digest), mounts=mounts.read)
    with _going_on("images are not listed"), sharing(service.layout.lock):
        listing.update(service)


@contextlib.contextmanager
def _going_on(otherwise: str) -> Iterator[None]:
    try:
        yield
    except AlsError as error:
        log.warning("%s: %s", otherwise, error)


def _references(service: Service) -> list[RefRecord]:
    with _going_on("images are not published"):
        return service.images.refs()
    return []


def _serve_again(service: Service, use: Use) -> None:
    held = Digest.parse(use.digest)
    image = service.known_image(use.reference, held)
    index = service.index_of(image, held) if image is not None else None
    if image is not None and index is not None:
        service.serve_layer(use.reference, held, image, index)


def put_right(service: Service) -> None:
    """Remove aborted attempts and take out of service what is damaged, unless somebody is at work."""
    try:
        with locked(service.layout.lock, timeout=0.0), _going_on("the store is not repaired; look with `als fsck`"):
            sweep(service.layout)
            service.uses.sweep()
            _repair(service)
    except LockTimeout:
        log.info("the store is in use by another process; aborted attempts are left for the next start")


def _repair(service: Service) -> None:
    boot, checked = boot_id(), service.config.run / _CHECKED
    booted = not checked.exists() or checked.read_text("ascii") != boot
    found = list(torn(service, sizes=booted))
    if found:
        named = _names(service, found)
        for problem, names in zip(found, named, strict=True):
            log.warning("%s %s%s: %s", problem.kind, problem.name, names, problem.what)
        log.warning("%d damaged parts of the store are put right, or into %s", len(found), service.layout.quarantine)
        repair_all(service, found)
    if booted:
        checked.write_text(boot, "ascii")


def _names(service: Service, problems: Collection[Problem]) -> list[str]:
    """For each problem, in parentheses, of which images it is one."""
    users: dict[str, list[str]] = {}
    for path in sorted(service.layout.refs.glob("[!.]*.json")):
        # What cannot be read is among the problems.
        with contextlib.suppress(AlsError):
            ref = service.images.read(path)
            users.setdefault(str(ref.digest), []).append(ref.reference)
            for diff_id in service.images.get(ref.digest).config.diff_ids:
                users.setdefault(str(diff_id), []).append(ref.reference)
    found = (", ".join(users.get(problem.name, ())) for problem in problems)
    return [f" ({names})" if names else "" for names in found]
