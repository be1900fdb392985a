"""Asking the clients which layers they use: every graph root that can be found, and every mount.

Graph roots are those of the storage.conf files that root's podman and CRI-O read, those that crio.conf names instead, those of
all users (rootless), those that the settings name (``clients``), and those that were seen before: a graph root found in use
of our layers, by its own records or by a mount, is written down in ROOT/clients.json, to be asked also when nothing of it
runs and nobody names it.

A graph root that does not exist uses nothing. But one that was seen before may lie on a disk that is not mounted now: it counts
as gone only if what is left of its path lies on the same file system as it did; the administrator can also say so (`forget`).
"""

from __future__ import annotations

import logging
import pwd
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from als.config import LAYOUTS, Config
from als.doctor.crioconf import read_crio_conf
from als.doctor.facts import Answer
from als.doctor.gather import answer_of
from als.doctor.storageconf import StorageConf, read_storage_conf
from als.errors import AlsError, ConfigError, StoreDamaged, StoreError
from als.imagestore.graphroot import Named, read_graph_root, read_lookups
from als.imagestore.tree import ImageStore
from als.mount.erofs import FSTYPE
from als.mount.lazy import SOURCE as LAZY_SOURCE
from als.mount.namespaces import all_mounts, overlay_lowers, overlay_upper
from als.mount.table import MountEntry
from als.store.atomic import read_json, write_json
from als.store.layout import Layout
from als.store.liveness import Claims, Holder
from als.store.lock import locked
from als.store.refused import store_errors

log = logging.getLogger(__name__)

_DEFAULT_GRAPH_ROOT = Path("/var/lib/containers/storage")
_DEFAULT_RUN_ROOT = Path("/run/containers/storage")
_ROOTLESS = Path(".local/share/containers/storage")
_ROOTLESS_CONF = Path(".config/containers/storage.conf")


@dataclass(frozen=True, slots=True)
class GraphRoot:
    """Where a client keeps its containers."""

    path: Path
    run: Path | None = None
    device: int | None = None
    """Of the file system it was seen on; None: it was not seen before."""
    expected: bool = False
    """Somebody said that it is there."""

    def also(self, other: GraphRoot) -> GraphRoot:
        """What both together know of the same path."""
        device = self.device if other.device is None else other.device
        return GraphRoot(self.path, self.run or other.run, device, self.expected or other.expected)


class _Gathered:
    """Claims while they are being gathered."""

    def __init__(self) -> None:
        self.chains: dict[str, set[Holder]] = {}
        self.layers: dict[str, set[Holder]] = {}
        self.lazy: dict[str, set[Holder]] = {}
        self.unknown: list[str] = []
        self.lookups: Counter[tuple[str, str]] = Counter()
        self.in_use: set[Path] = set()
        """Graph roots that use something of ours."""

    def claims(self) -> Claims:
        return Claims(
            {name: frozenset(holders) for name, holders in self.chains.items()},
            {name: frozenset(holders) for name, holders in self.layers.items()},
            tuple(self.unknown),
            {key: frozenset(holders) for key, holders in self.lazy.items()},
            self.lookups,
        )


class Clients:
    """The clients of one store."""

    def __init__(
        self, config: Config, layout: Layout, image_stores: Sequence[ImageStore], environment: Mapping[str, str]
    ) -> None:
        self._config = config
        self._layout = layout
        self._image_stores = image_stores
        self._environment = environment

    def claims(self, known_chains: Iterable[str]) -> Claims:
        """What is used now.

        :param known_chains: the chain IDs that concern us; what else clients name is their own affair.
        """
        known = set(known_chains)
        found = _Gathered()
        for entry in all_mounts():
            self._add_mount(found, entry)
        roots: dict[Path, GraphRoot] = {}
        for root in (*self.graph_roots(), *map(GraphRoot, sorted(found.in_use))):
            roots[root.path] = roots[root.path].also(root) if root.path in roots else root
        for root in roots.values():
            self._add_graph_root(found, root, known)
        self._remember(found.in_use)
        for reason in found.unknown:
            log.warning("everything that is published stays: %s", reason)
        return found.claims()

    def graph_roots(self) -> Iterator[GraphRoot]:
        """Those that are known without looking at mounts; one that several name appears as often."""
        yield GraphRoot(_DEFAULT_GRAPH_ROOT, _DEFAULT_RUN_ROOT)
        for conf in self._root_confs():
            if conf.graph_root:
                yield GraphRoot(Path(conf.graph_root), Path(conf.run_root) if conf.run_root else _DEFAULT_RUN_ROOT)
        yield from self._of_crio()
        for user in _users():
            yield from _rootless(Path(user.pw_dir), user.pw_uid)
        for text, seen in self.seen().items():
            yield GraphRoot(Path(text), device=seen)
        for path in self._config.clients:
            yield GraphRoot(path, expected=True)

    def layouts(self) -> tuple[str, ...]:
        """In which layouts images are published: those of the settings, or those whose folder a storage.conf names, or all."""
        if self._config.layouts:
            return self._config.layouts
        try:
            confs, crio = self._root_confs(), read_crio_conf(self._environment)
        except ConfigError as error:
            log.warning("images are published for every kind of client: %s", error)
            return LAYOUTS
        confs += [conf for user in _users() if (conf := _conf_of(Path(user.pw_dir))) is not None]
        named = {Path(text) for conf in confs for text in conf.image_stores}
        named |= {Path(text) for text in (crio.image_stores if crio is not None else ())}
        named |= {path.resolve() for path in named}
        found = tuple(store.layout for store in self._image_stores if named & {store.root, store.root.resolve()})
        return found or LAYOUTS

    def _root_confs(self) -> list[StorageConf]:
        """What root's own file says, and what the one says that the environment names."""
        without = {name: value for name, value in self._environment.items() if name != "CONTAINERS_STORAGE_CONF"}
        confs = [read_storage_conf(environment, drop_ins=True) for environment in (without, self._environment)]
        return [conf for conf in confs if conf is not None]

    def _of_crio(self) -> Iterator[GraphRoot]:
        crio = read_crio_conf(self._environment)
        if crio is None:
            return
        run = Path(crio.run_root) if crio.run_root else _DEFAULT_RUN_ROOT
        # With `imagestore`, images and their layers lie there, and containers alone below the root.
        for path in (crio.graph_root, crio.image_store):
            if Path(path).is_absolute():
                yield GraphRoot(Path(path), run)

    def note(self) -> None:
        """Write down which clients the present environment names, for a later gc that may be run in another one."""
        roots = [root.path for root in self.graph_roots() if root.device is None and not root.expected]
        self._remember({path for path in roots if answer_of(path) is Answer.FINE and path != _DEFAULT_GRAPH_ROOT})

    def forget(self, path: Path) -> bool:
        """Never ask this graph root again, unless it is seen in use anew; False: it was not known."""
        with locked(self._layout.locks / "clients", timeout=10.0), store_errors(self._layout.clients):
            seen = self.seen()
            if str(path) not in seen:
                return False
            del seen[str(path)]
            write_json(self._layout.clients, {"graph_roots": seen})
            return True

    def _add_graph_root(self, found: _Gathered, root: GraphRoot, known: set[str]) -> None:
        answer = answer_of(root.path)
        if answer is Answer.MISSING:
            if root.expected or (root.device is not None and not _is_gone(root.path, root.device)):
                way = "take it out of als.toml" if root.expected else f"`als gc --forget {root.path}`"
                found.unknown.append(f"the graph root {root.path} is not there; if it is gone for good, {way}")
            return
        try:
            if answer is not Answer.FINE:
                raise StoreError(f"it {answer.value}", where=str(root.path))
            named = read_graph_root(root.path, root.run)
            found.lookups += read_lookups(root.path)
        except StoreError as error:
            found.unknown.append(f"the graph root {root.path} is not readable: {error}")
            return
        for each in named:
            if each.layer in known:
                found.in_use.add(root.path)
                found.chains.setdefault(each.layer, set()).add(_holder(each, root.path))

    def _add_mount(self, found: _Gathered, entry: MountEntry) -> None:
        if entry.fstype == "overlay" and entry.source != LAZY_SOURCE:
            paths = overlay_lowers(entry)
            graph = _graph_root_of(entry)
        elif entry.fstype == FSTYPE and not _is_our_own(entry.target, self._layout):
            paths, graph = [entry.source], None
        else:
            return
        used = False
        for text in paths:
            used = self._add_path(found, text, Holder("mount", str(entry.target))) or used
        if used and graph is not None:
            found.in_use.add(graph)

    def _add_path(self, found: _Gathered, text: str, holder: Holder) -> bool:
        """Note the use of a path; False: it is none of ours."""
        parts = self._below_root(text)
        if parts[:1] == ("layers",) and len(parts) > 1 and len(parts[1]) == 64:
            found.layers.setdefault(parts[1], set()).add(holder)
            return True
        if parts[:1] == ("lazy",) and len(parts) > 1:
            found.lazy.setdefault(parts[1], set()).add(holder)
            return True
        used = False
        for store in self._image_stores:
            match parts:
                case (folder, "overlay", "l", link, *_) if folder == store.root.name:
                    chain_id = store.link_target(link)
                case (folder, "overlay" | "chains", name, *_) if folder == store.root.name:
                    chain_id = name
                case ("l", link, *_):
                    # A relative one is the client's own or, by the links' different lengths hardly ever, ours.
                    chain_id = store.link_target(link)
                case _:
                    continue
            if chain_id is not None:
                used = True
                found.chains.setdefault(chain_id, set()).add(holder)
                # The chain may be out of the list already, which alone tells of what layer it consists.
                if (borrowed := store.borrowed(chain_id)) is not None:
                    found.layers.setdefault(borrowed, set()).add(holder)
        return used

    def _below_root(self, text: str) -> tuple[str, ...]:
        path = Path(text)
        if not path.is_absolute():
            return path.parts
        for root in (self._layout.root.absolute(), self._layout.root.resolve()):
            if path.is_relative_to(root):
                return path.relative_to(root).parts
        return ()

    def seen(self) -> dict[str, int]:
        """The graph roots that were written down, each with the device of its file system.

        :raises StoreDamaged: the list cannot be read. Then nobody knows who else uses layers, and nothing may be removed.
        """
        path = self._layout.clients
        try:
            found = read_json(path).get("graph_roots", {})
            return {str(graph): int(device) for graph, device in found.items()}
        except FileNotFoundError:
            return {}
        except (AttributeError, ValueError, TypeError) as error:
            what = f"not a list of graph roots: {error}"
            raise StoreDamaged(what, where=str(path), hint="restore it or remove it") from error

    def _remember(self, paths: Iterable[Path]) -> None:
        new = {str(path): path.stat().st_dev for path in paths if path.is_dir()}
        if not new.items() - self.seen().items():
            return
        try:
            with locked(self._layout.locks / "clients", timeout=10.0), store_errors(self._layout.clients):
                write_json(self._layout.clients, {"graph_roots": {**self.seen(), **new}})
        except AlsError as error:
            # A full disk must not keep anybody from making room.
            log.warning("the clients are not written down: %s", error)


def _users() -> list[pwd.struct_passwd]:
    """Everybody but root."""
    return [user for user in pwd.getpwall() if user.pw_uid]


def _conf_of(home: Path) -> StorageConf | None:
    """A user's own storage.conf; None where there is none that can be read."""
    if not (home / _ROOTLESS_CONF).is_file():
        return None
    try:
        return read_storage_conf({"CONTAINERS_STORAGE_CONF": str(home / _ROOTLESS_CONF)})
    except ConfigError as error:
        log.warning("%s", error)
        return None


def _rootless(home: Path, uid: int) -> Iterator[GraphRoot]:
    run = Path(f"/run/user/{uid}/containers")
    yield GraphRoot(home / _ROOTLESS, run)
    conf = _conf_of(home)
    if conf is not None and Path(conf.graph_root).is_absolute():
        yield GraphRoot(Path(conf.graph_root), Path(conf.run_root) if conf.run_root else run)


def _graph_root_of(entry: MountEntry) -> Path | None:
    """``GRAPH/overlay/ID/diff`` is the upper directory, ``GRAPH/overlay/ID/merged`` the mount point."""
    for path in (Path(overlay_upper(entry)), entry.target):
        if path.is_absolute() and len(path.parents) > 3 and path.parents[1].name == "overlay":
            graph = path.parents[2]
            if (graph / "overlay-layers").is_dir():
                return graph
    return None


def _is_our_own(target: Path, layout: Layout) -> bool:
    return any(target.is_relative_to(root) for root in (layout.root.absolute(), layout.root.resolve()))


def _is_gone(path: Path, device: int) -> bool:
    """Whether a path that does not exist was removed, and not just the file system unmounted on which it was."""
    return next(folder for folder in path.parents if folder.exists()).stat().st_dev == device


def _holder(named: Named, graph: Path) -> Holder:
    return Holder(named.kind, named.name, str(graph))
