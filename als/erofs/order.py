"""The first pass over a tree: which inodes an image has, in which order, and which xattrs they share.

The order is libcomposefs' (libcomposefs/lcfs-writer.c, ``lcfs_compute_tree``), since its images have to come out the same, bit
for bit: inodes breadth first, siblings in byte order, each hardlink at its first name.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from als.erofs.check import Checker
from als.erofs.profile import Profile
from als.erofs.xattrs import ACL_NAMES, SharedXattrs, Xattr, XattrCounter, escape, metacopy_value
from als.model.tree import Directory, FileType, Inode, Node, Tree, inode_of


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
        self.nodes: list[Node] = [tree.root]
        self.links = array("I", [0])
        self.listings: dict[int, list[bytes]] = {}
        """Of each directory, by its number: all names in it, sorted, with ``.`` and ``..``."""
        self.has_acl = False
        root = tree.root.inode
        self.epoch = (root.mtime, root.mtime_ns)
        """The earliest modification time; an inode that has it need not state it."""
        self._root = tree.root
        self._opaque, self._metacopy, self._redirect = profile.opaque, profile.metacopy, profile.redirect
        self._verity = verity
        self._checker = Checker(tree, profile)
        self._numbers: dict[Node, int] = {tree.root: 0}
        self._parents = array("I", [0])
        self._whiteout, self._hidden = _whiteouts(tree.root.inode, profile)
        self._counter = XattrCounter()
        self._checker.node(tree.root)
        for number, node in enumerate(self.nodes):  # which grows on the way
            self._count(node)
            if isinstance(node, Directory):
                self._enter(number, node)
        self.shared = self._share()

    def number_of(self, number: int, directory: Directory, name: bytes) -> int:
        """The number of the inode behind `name` in `directory`, which itself has `number`."""
        if name == b".":
            return number
        if name == b"..":
            return self._parents[number]
        return self._numbers[self._node(directory, name)]

    def sole_content(self, node: Node) -> bytes | None:
        """The name of a content that no other inode leads to, if all xattrs of this inode are those which say so."""
        if self._verity or isinstance(node, Directory) or node.content is None or node.xattrs or not is_redirected(node):
            return None
        name = node.content.name
        return None if name in self._shared_contents else name

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

    def _node(self, directory: Directory, name: bytes) -> Node:
        node = directory.entries.get(name)
        if node is None:
            return self._hidden[name]
        if isinstance(node, Inode) and node.type is FileType.WHITEOUT:
            return self._whiteout
        return node

    def _enter(self, number: int, directory: Directory) -> None:
        """Number what is in a directory."""
        self._checker.directory(directory)
        entries = directory.entries
        names = sorted([*entries, *self._hidden]) if number == 0 else sorted(entries)
        subdirectories = 0
        for name in names:
            if name in entries:
                self._checker.node(entries[name])
            node = self._node(directory, name)
            known = self._numbers.setdefault(node, len(self.nodes))
            if isinstance(node, Directory):
                subdirectories += 1
                if known != len(self.nodes):
                    self._checker.refuse(node, "a directory with two names")
            if known == len(self.nodes):
                self.nodes.append(node)
                self._parents.append(number)
                self.links.append(1)
            else:
                self.links[known] += 1
        self.links[number] = 2 + subdirectories
        names += (b".", b"..")
        names.sort()
        self.listings[number] = names

    def _count(self, node: Node) -> None:
        """Take an inode into what is counted over all of them."""
        inode = inode_of(node)
        if inode.mtime < self.epoch[0] or (inode.mtime == self.epoch[0] and inode.mtime_ns < self.epoch[1]):
            self.epoch = (inode.mtime, inode.mtime_ns)
        for name, value in inode.xattrs:
            self._counter.add((escape(name, self.profile.escaped), value))
            if name in ACL_NAMES:
                self.has_acl = True
        if isinstance(node, Directory):
            if self._is_opaque(node):
                self._counter.add((self._opaque, b"y"))
        elif inode.content is not None and is_redirected(inode):
            name = inode.content.name
            self._counter.add_content(name, self._verity.get(name, b""))

    def _share(self) -> SharedXattrs:
        common, names, digests = self._counter.common()
        del self._counter
        self._shared_contents = names
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
