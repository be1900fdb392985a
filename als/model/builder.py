"""From an archive's entries to a :class:`~als.model.tree.Tree`.

The builder plays through what containers/storage does when it unpacks a layer into an empty directory and chroots there
(``pkg/archive/archive.go``, ``Unpack`` and ``extractTarFileEntry``), so that a layer served by als and one pulled by podman
itself are the same. Where podman's pull would fail (a name below a file, a hardlink to nothing), the layer is refused.

Three things can only be known at the end and are therefore put off until :meth:`TreeBuilder.finish`, which also makes
the cost linear whatever the order of the entries:

* *Whiteouts*. A layer's own entry survives a whiteout of the same name wherever the two stand in the archive; it then hides
  only what lies below.
* *Hardlinked inodes*. Inodes are frozen and the header of a hardlink changes the attributes of all its names; replacing the
  inode under each name for each link would be quadratic.
* *Collected xattrs*. A second header of a directory or a hardlink's header adds to the xattrs that are there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from als.errors import BadImage, LimitExceeded
from als.model.entry import Entry, EntryType
from als.model.inodes import check_attributes, check_xattrs_total, checked_xattrs, make_inode
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.paths import clean, show
from als.model.tree import WHITEOUT, Content, Directory, FileType, Inode, Node, Tree

WHITEOUT_PREFIX = b".wh."
"""OCI image specification, layer.md, "Whiteouts"."""
WHITEOUT_META_PREFIX = b".wh..wh."
"""Bookkeeping of aufs; all but the opaque marker is of no concern to others."""
OPAQUE_MARKER = b".wh..wh..opq"

MAX_SYMLINKS = 40
"""MAXSYMLINKS of the kernel (include/linux/namei.h)."""
_DIR, _HARDLINK = EntryType.DIR, EntryType.HARDLINK
_CAPABILITY = b"security.capability"
"""The kernel drops it from a file whose owner is set (``chown_common`` in fs/open.c)."""


@dataclass(slots=True)
class _Links:
    """The names that share an inode, and what that inode has become through the headers of the later ones."""

    current: Inode
    names: list[tuple[Directory, bytes]]


class TreeBuilder:
    """Collects the entries of one layer in their order; used once."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._root = _implicit_directory()
        self._count = 0
        self._metadata = 0
        self._steps = 0
        self._parents: dict[bytes, Directory] = {}
        """Directories by the spelling under which they were last found; forgotten when a path may lead elsewhere."""
        self._links: dict[Inode, _Links] = {}
        self._xattrs: dict[Node, dict[bytes, bytes]] = {}
        """Xattrs of directories and hardlinked inodes to which later headers have added."""
        self._whiteouts: list[tuple[int, bytes, bytes]] = []
        """Depth, directory and name of each."""
        self._opaque: list[bytes] = []

    def add(self, entry: Entry, content: Content | None = None, data: bytes | None = None) -> None:
        """Take the archive's next entry.

        :param content: where the bytes of a regular file that is not empty are to be found.
        :param data: its bytes, for a file that may live in the metadata image.
        :raises BadImage: the entry cannot be what a layer may hold, or could not be unpacked at this place.
        :raises LimitExceeded: a name, a value or the number of entries is over its limit.
        """
        self._charge(entry.path)
        path = entry.path.rstrip(b"/")
        head, _, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT_PREFIX):
            self._weigh(len(path), path)
            self._add_whiteout(entry.path, name)
            return
        self._weigh_entry(entry, name, data)
        parent = self._parents.get(head)
        if parent is None or name in (b"", b".", b".."):
            self._weigh(len(head), path)
            found = self._locate(entry.path)
            if found is None:
                return
            parent, name = found
            if not name:
                self._add_root(entry)
                return
            if path == head + b"/" + name or path == name:
                self._parents[head] = parent
        if len(name) > self._limits.name_bytes or b"\0" in name:
            raise _bad_name(entry.path)
        kind = entry.type
        if kind is _DIR:
            self._add_directory(parent, name, entry)
        elif kind is _HARDLINK:
            self._add_hardlink(parent, name, entry)
        else:
            self._put(parent, name, make_inode(entry, self._limits, content, data), entry.path)

    def finish(self) -> Tree:
        """All entries were added: the layer's content.

        :raises BadImage: an opaque marker lies in something that is no directory.
        :raises LimitExceeded: xattrs or implied directories are over their limit.
        """
        for path in self._opaque:
            self._directory(_split(path), path).opaque = True
        self._whiteouts.sort()
        for _, path, name in self._whiteouts:
            self._place_whiteout(path, name)
        for original, links in self._links.items():
            current = self._with_collected_xattrs(original, links.current)
            if current is not original:
                for parent, name in links.names:
                    if parent.entries.get(name) is original:
                        parent.entries[name] = current
        for node in self._xattrs:
            if isinstance(node, Directory):
                node.inode = self._with_collected_xattrs(node, node.inode)
        return Tree(self._root)

    # -- names

    def _charge(self, where: bytes) -> None:
        """Count one more node, declared or implied."""
        self._count += 1
        if self._count > self._limits.entries:
            raise LimitExceeded(f"the layer holds more than {self._limits.entries} entries", where=show(where))

    def _weigh_entry(self, entry: Entry, name: bytes, data: bytes | None) -> None:
        """Count what is kept of an entry beside a fixed amount."""
        size = len(name) + len(entry.linkname) + (len(data) if data is not None else 0)
        for key, value in entry.xattrs:
            size += len(key) + len(value)
        self._weigh(size, entry.path)

    def _weigh(self, size: int, where: bytes) -> None:
        self._metadata += size
        if self._metadata > self._limits.metadata_bytes:
            raise LimitExceeded(f"the layer has more than {self._limits.metadata_bytes} bytes of metadata", where=show(where))

    def _pass(self, steps: int, where: bytes) -> None:
        """Count directories on the way to a name."""
        self._steps += steps
        if self._steps > self._limits.steps:
            raise LimitExceeded(f"its names lead through more than {self._limits.steps} directories", where=show(where))

    def _locate(self, path: bytes) -> tuple[Directory, bytes] | None:
        """The directory that `path` lies in, created where it is missing, and the last name (``b""``: the root itself).

        None for what lies in a directory of aufs's bookkeeping.
        """
        parts = self._parts(path)
        if not parts:
            return self._root, b""
        if _in_aufs_metadata(parts, path):
            return None
        return self._directory(parts[:-1], path), parts[-1]

    def _parts(self, path: bytes) -> list[bytes]:
        if len(path) > self._limits.path_bytes:
            raise LimitExceeded(f"a path is longer than {self._limits.path_bytes} bytes", where=show(path))
        parts = clean(path)
        if len(parts) > self._limits.depth:
            raise LimitExceeded(f"a path is deeper than {self._limits.depth} directories", where=show(path))
        return parts

    def _directory(self, parts: list[bytes], where: bytes) -> Directory:
        """The directory at the cleaned path `parts`, created where it is missing."""
        found = self._walk(parts, where, create=True)
        if found is None:
            raise BadImage("an entry lies below something that is not a directory", where=show(where))
        return found

    def _walk(self, parts: list[bytes], where: bytes, *, create: bool) -> Directory | None:
        """Follow `parts` as a process chrooted into the layer would.

        The steps through symlinks are bounded with all others, so that no entry costs more than the longest path does
        and nothing comes to lie deeper than the limit.

        :param create: make what is missing of `parts`; never what a symlink names, as ``mkdir -p`` does not either.
        :returns: None if something on the way is no directory, or is missing and was not created.
        """
        self._pass(len(parts), where)
        trail = [self._root]
        todo = parts[::-1]
        ours = len(todo)
        """How many of `todo`, from its bottom, are of `parts` and not of a symlink's target."""
        symlinks = steps = 0
        while todo:
            name = todo.pop()
            of_symlink = len(todo) >= ours
            ours = min(ours, len(todo))
            steps += 1
            if steps > self._limits.depth:
                raise LimitExceeded(f"a path leads through more than {self._limits.depth} directories", where=show(where))
            if name == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            node = trail[-1].entries.get(name)
            if node is None and create and not of_symlink:
                node = self._imply(trail[-1], name, where)
            if isinstance(node, Directory):
                trail.append(node)
            elif node is not None and node.type is FileType.SYMLINK:
                symlinks += 1
                if symlinks > MAX_SYMLINKS:
                    raise BadImage(f"a path leads through more than {MAX_SYMLINKS} symlinks", where=show(where))
                if node.target.startswith(b"/"):
                    del trail[1:]
                leads_to = [part for part in reversed(node.target.split(b"/")) if part not in (b"", b".")]
                self._pass(len(leads_to), where)
                todo.extend(leads_to)
            else:
                return None
        return trail[-1]

    def _imply(self, parent: Directory, name: bytes, where: bytes) -> Directory:
        """Make a directory that the archive does not mention."""
        if len(name) > self._limits.name_bytes:
            raise _bad_name(where)
        self._charge(where)
        self._weigh(len(name), where)
        directory = _implicit_directory()
        parent.entries[name] = directory
        return directory

    def _put(self, parent: Directory, name: bytes, node: Node, where: bytes) -> None:
        """Let `node` take the place of whatever is there; `where` is the path that led to it."""
        if name in parent.entries:
            self._remove(parent, name, where)
        parent.entries[name] = node

    def _remove(self, parent: Directory, name: bytes, where: bytes) -> None:
        """Remove whatever is there; paths that led through it lead elsewhere from now on."""
        old = parent.entries.pop(name, None)
        if old is not None and (isinstance(old, Directory) or old.type is FileType.SYMLINK):
            self._parents.clear()
            if self._walk(self._parts(where)[:-1], where, create=False) is not parent:
                raise BadImage("an entry replaces what its own path leads through", where=show(where))

    # -- whiteouts

    def _add_whiteout(self, path: bytes, name: bytes) -> None:
        parts = self._parts(path)
        if _in_aufs_metadata(parts, path):
            return
        head = b"/".join(parts[:-1])
        if name == OPAQUE_MARKER:
            self._opaque.append(head)
        elif not name.startswith(WHITEOUT_META_PREFIX):
            hidden = name[len(WHITEOUT_PREFIX) :]
            if hidden in (b"", b".", b"..") or len(hidden) > self._limits.name_bytes:
                raise BadImage("a whiteout of no possible name", where=show(path))
            self._whiteouts.append((len(parts), head, hidden))

    def _place_whiteout(self, path: bytes, name: bytes) -> None:
        """Hide `name` of the lower layers in the directory `path`.

        Where that is no directory in this layer, nothing of a lower layer can show through and there is nothing to hide.
        containers/storage ignores such a whiteout too (``ConvertReadWithHandler``). Whiteouts are placed from the root
        down, so that one below another's name is never taken for a directory's reason to exist.
        """
        parent = self._walk(_split(path), path, create=True)
        if parent is None:
            return
        node = parent.entries.get(name)
        if isinstance(node, Directory):
            node.opaque = True
        elif node is None:
            parent.entries[name] = WHITEOUT

    # -- entries by type

    def _add_root(self, entry: Entry) -> None:
        if entry.type is not EntryType.DIR:
            raise BadImage("the root of the layer is not a directory", where=show(entry.path))
        self._merge(self._root, entry)

    def _add_directory(self, parent: Directory, name: bytes, entry: Entry) -> None:
        old = parent.entries.get(name)
        if isinstance(old, Directory):
            self._merge(old, entry)
        else:
            self._put(parent, name, Directory(make_inode(entry, self._limits)), entry.path)

    def _merge(self, directory: Directory, entry: Entry) -> None:
        """A further header of a directory replaces its attributes and adds to its xattrs."""
        inode = make_inode(entry, self._limits)
        if inode.xattrs and directory.inode.xattrs:
            self._collect(directory, directory.inode.xattrs, inode.xattrs)
        elif directory.inode.xattrs:
            inode = replace(inode, xattrs=directory.inode.xattrs)
        directory.inode = inode

    def _add_hardlink(self, parent: Directory, name: bytes, entry: Entry) -> None:
        # What has the link's name goes first, as containers/storage removes it first; a link to itself then leads nowhere.
        self._remove(parent, name, entry.path)
        parts = self._parts(entry.linkname)
        target_parent = self._walk(parts[:-1], entry.path, create=False) if parts else None
        target = target_parent.entries.get(parts[-1]) if target_parent is not None else None
        if target_parent is None or target is None:
            raise BadImage(f"a hardlink to {show(entry.linkname)}, which does not exist", where=show(entry.path))
        if isinstance(target, Directory):
            raise BadImage(f"a hardlink to the directory {show(entry.linkname)}", where=show(entry.path))
        parent.entries[name] = target
        if target is WHITEOUT:
            return
        links = self._links.get(target)
        if links is None:
            links = self._links[target] = _Links(target, [(target_parent, parts[-1])])
        links.names.append((parent, name))
        self._apply_link_header(target, links, entry)

    def _apply_link_header(self, original: Inode, links: _Links, entry: Entry) -> None:
        """Change the shared inode as unpacking the hardlink's header would.

        ``extractTarFileEntry`` makes the link, then sets the owner, mode and time (of a symlink the owner only) and the
        header's xattrs. The kernel drops a file's capability when its owner is set, so one survives only if repeated.
        """
        check_attributes(entry.path, entry.uid, entry.gid, entry.mtime, entry.mtime_ns)
        xattrs = checked_xattrs(entry, self._limits)
        old = links.current
        if (entry.uid, entry.gid) != (old.uid, old.gid):
            old = replace(old, uid=entry.uid, gid=entry.gid)
        mode = entry.mode & 0o7777
        if old.type is not FileType.SYMLINK and (mode, entry.mtime, entry.mtime_ns) != (old.mode, old.mtime, old.mtime_ns):
            old = replace(old, mode=mode, mtime=entry.mtime, mtime_ns=entry.mtime_ns)
        links.current = old
        if xattrs or original.xattrs or original in self._xattrs:
            collected = self._collect(original, original.xattrs, ())
            if old.type is FileType.FILE:
                collected.pop(_CAPABILITY, None)
            collected.update(xattrs)

    # -- xattrs

    def _collect(
        self, node: Node, present: tuple[tuple[bytes, bytes], ...], more: tuple[tuple[bytes, bytes], ...]
    ) -> dict[bytes, bytes]:
        """Start or go on collecting the xattrs of a node to which headers have added."""
        collected = self._xattrs.get(node)
        if collected is None:
            collected = self._xattrs[node] = dict(present)
        collected.update(more)
        return collected

    def _with_collected_xattrs(self, node: Node, inode: Inode) -> Inode:
        collected = self._xattrs.get(node)
        if collected is None:
            return inode
        xattrs = tuple(sorted(collected.items()))
        check_xattrs_total(xattrs, self._limits, b"a directory or hardlinked file with repeated headers")
        return inode if xattrs == inode.xattrs else replace(inode, xattrs=xattrs)


def _implicit_directory() -> Directory:
    return Directory(Inode(FileType.DIR, 0o755))


def _split(cleaned: bytes) -> list[bytes]:
    return cleaned.split(b"/") if cleaned else []


def _in_aufs_metadata(parts: list[bytes], path: bytes) -> bool:
    """Whether a directory on the way to the last of `parts` is aufs's own.

    :raises BadImage: one is named like a whiteout.
    """
    for part in parts[:-1]:
        if part.startswith(WHITEOUT_META_PREFIX):
            return True
        if part.startswith(WHITEOUT_PREFIX):
            raise BadImage("an entry lies below a whiteout's name", where=show(path))
    return False


def _bad_name(path: bytes) -> BadImage:
    if b"\0" in path:
        return BadImage("a name with a NUL in it", where=show(path))
    return LimitExceeded("a name is too long for any file system", where=show(path))
