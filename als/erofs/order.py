"""The first pass over a tree: which inodes an image has, in which order, and which xattrs they share.

The order is libcomposefs' (libcomposefs/lcfs-writer.c, ``lcfs_compute_tree``), since its images have to come out the same, bit
for bit: inodes breadth first, siblings in byte order, each hardlink at its first name.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping

from als.erofs.check import Checker
from als.erofs.profile import Profile
from als.erofs.xattrs import ACL_NAMES, SharedXattrs, Xattr, XattrCounter, escape, metacopy_value
from als.model.tree import Directory, FileType, Inode, Node, Tree

_WHITEOUT = FileType.WHITEOUT


def is_redirected(inode: Inode) -> bool:
    """Whether the bytes of this inode are in the forest."""
    return inode.content is not None and inode.data is None and inode.size > 0


class Order:
    """The inodes of an image in their order.

    What grows with the tree is kept in flat arrays by inode number: a million objects more would cost more than the tree.

    :raises als.errors.Unsupported: the tree holds what the image cannot.
    """

    def __init__(self, tree: Tree, profile: Profile, verity: Mapping[bytes, bytes]) -> None:
        self.profile = profile
        self.nodes: list[Node] = []
        self.inodes: list[Inode] = []
        """The inode behind each node."""
        self.links = array("I")
        self.listings: dict[int, tuple[list[bytes], array[int]]] = {}
        """Of each directory, by its number: all names in it, sorted, with ``.`` and ``..``, and the number behind each name."""
        self.has_acl = False
        root = tree.root.inode
        self.epoch = (root.mtime, root.mtime_ns)
        """The earliest modification time; an inode that has it need not state it."""
        self._root = tree.root
        self._opaque, self._metacopy, self._redirect = profile.opaque, profile.metacopy, profile.redirect
        self._verity = verity
        self._checker = Checker(tree, profile)
        self._numbers: dict[Node, int] = {}
        self._whiteout, self._hidden = _whiteouts(root, profile)
        self._counter = XattrCounter()
        self._number_all(tree.root)
        self._numbers.clear()
        self.shared = self._share()

    def sole_content(self, inode: Inode) -> bytes | None:
        """The name of a content that no other inode leads to, if all xattrs of this inode are those which say so,
        with a digest if the image has any."""
        content = inode.content
        if content is None or inode.xattrs or not is_redirected(inode) or content.name in self._shared_contents:
            return None
        if self._verity and self._verity.get(content.name, b"") in self._shared_digests:
            return None
        return content.name

    def verity_of(self, content: bytes) -> bytes:
        """The fs-verity digest of a content; empty if it has none."""
        return self._verity.get(content, b"")

    def xattrs(self, node: Node) -> list[Xattr]:
        """All xattrs that the image gives to an inode, ours among them, sorted by name."""
        result: list[Xattr] = []
        if isinstance(node, Directory):
            inode = node.inode
            if self._is_opaque(node):
                result.append((self._opaque, b"y"))
        else:
            inode = node
            if inode.content is not None and is_redirected(inode):
                content = inode.content.name
                result.append((self._metacopy, metacopy_value(self._verity.get(content, b""))))
                result.append((self._redirect, self.profile.redirect_to(content)))
        if inode.xattrs:
            result += [(escape(name, self.profile.escaped), value) for name, value in inode.xattrs]
            result.sort()
        return result

    def _is_opaque(self, directory: Directory) -> bool:
        return directory.opaque or (directory is self._root and not self.profile.layer)

    def _number_all(self, root: Directory) -> None:
        """Number all inodes, breadth first."""
        self._checker.node(root)
        self._numbers[root] = 0
        self._take(root, root.inode)
        directories = [(0, 0, root)]
        for number, parent, directory in directories:  # which grows on the way
            self._enter(number, parent, directory, directories)

    def _enter(self, number: int, parent: int, directory: Directory, found: list[tuple[int, int, Directory]]) -> None:
        """Number what is in a directory; add to `found` the directories among it, with their numbers and their parent's."""
        checker, numbers, links, entries = self._checker, self._numbers, self.links, directory.entries
        checker.directory(directory)
        names = sorted([*entries, *self._hidden]) if number == 0 else sorted(entries)
        children = array("I")
        subdirectories = 0
        for name in names:
            node = entries.get(name)
            if node is None:
                node = self._hidden[name]
            else:
                checker.node(node)
                if isinstance(node, Inode) and node.type is _WHITEOUT:
                    node = self._whiteout
            count = len(links)
            known = numbers.setdefault(node, count)
            children.append(known)
            if isinstance(node, Directory):
                subdirectories += 1
                if known != count:
                    checker.refuse(node, "a directory with two names")
                found.append((known, number, node))
                self._take(node, node.inode)
            elif known == count:
                self._take(node, node)
            else:
                links[known] += 1
        links[number] = 2 + subdirectories
        for name, known in ((b".", number), (b"..", parent)):
            position = bisect_left(names, name)
            names.insert(position, name)
            children.insert(position, known)
        self.listings[number] = names, children

    def _take(self, node: Node, inode: Inode) -> None:
        """Append an inode to those of the image, and take it into what is counted over all of them."""
        self.nodes.append(node)
        self.inodes.append(inode)
        self.links.append(1)
        if inode.mtime <= self.epoch[0]:
            self.epoch = min(self.epoch, (inode.mtime, inode.mtime_ns))
        for name, value in inode.xattrs:
            self._counter.add((escape(name, self.profile.escaped), value))
            if name in ACL_NAMES:
                self.has_acl = True
        content = inode.content
        if isinstance(node, Directory):
            if self._is_opaque(node):
                self._counter.add((self._opaque, b"y"))
        elif content is not None and is_redirected(inode):
            self._counter.add_content(content.name, self._verity.get(content.name, b""))

    def _share(self) -> SharedXattrs:
        common, names, digests = self._counter.common()
        del self._counter
        self._shared_contents = names
        self._shared_digests = digests | {b""}
        common |= {(self._redirect, self.profile.redirect_to(name)) for name in names}
        common |= {(self._metacopy, metacopy_value(digest)) for digest in digests}
        return SharedXattrs(common)


def _whiteouts(root: Inode, profile: Profile) -> tuple[Inode, dict[bytes, Inode]]:
    """The inode of all whiteouts of a layer, and the whiteouts of the root directory that hide the forest.

    They take the owner, time and SELinux label of the root, as composefs' do. In a layer a single inode serves for all, as
    overlay itself does it: nobody ever sees its attributes.
    """
    label = tuple(xattr for xattr in root.xattrs if xattr[0] == b"security.selinux")

    def whiteout(mode: int) -> Inode:
        return Inode(FileType.CHAR, mode, root.uid, root.gid, root.mtime, root.mtime_ns, xattrs=label)

    every = whiteout(0)
    return every, {name: every if profile.layer else whiteout(0o644) for name in profile.hidden}
