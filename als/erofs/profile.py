"""What kind of EROFS image is written: the differences between composefs' images and our layer images.

Both have the same layout; they differ in what stands for a whiteout, in where the forest of objects lies, and in which of
overlay's own xattrs are escaped.

*Escapes.* overlayfs keeps its state in xattrs below ``trusted.overlay.`` (or ``user.overlay.`` on a mount with ``userxattr``).
A layer may bring such names itself; taken at face value they would let an image redirect a file to any other. So
``trusted.overlay.NAME`` is stored as ``trusted.overlay.overlay.NAME``: since Linux 6.8 overlay shows that to its users as
``trusted.overlay.NAME`` again and ignores it otherwise, older kernels hide it (fs/overlayfs/xattrs.c). Layer images escape
``user.overlay.NAME`` likewise, although a mount without ``userxattr`` neither heeds nor unescapes it: containers see it as
``user.overlay.overlay.NAME``. That is the price for an image that is harmless whichever way it gets mounted. composefs' own
images leave ``user.overlay.*`` alone, as mkcomposefs does.
"""

from __future__ import annotations

from dataclasses import dataclass

from als.model.forest import FOREST


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of image. The constants of this module are all there are, but for tests of variants."""

    forest: bytes
    """The top directory of the forest that redirects lead to; empty: the objects' ``xx`` directories are at the top."""
    hidden: tuple[bytes, ...]
    """Names in the root directory that get a whiteout, so that the forest below is not seen; a tree cannot use them itself."""
    layer: bool
    """Whether this is one layer of several: whiteouts and opaque directories are real ones. A whole image can have neither,
    and its root directory is marked opaque."""
    escaped: tuple[bytes, ...]
    """The prefixes of those xattrs that are escaped."""
    overlay: bytes = b"trusted.overlay."
    """The prefix of the xattrs by which we speak to overlay."""
    composefs_version: int = 0
    """What the composefs header states; 0 and 1 differ in how composefs escapes whiteouts."""

    @property
    def metacopy(self) -> bytes:
        """The xattr that says: the data are elsewhere."""
        return self.overlay + b"metacopy"

    @property
    def redirect(self) -> bytes:
        """The xattr that says where."""
        return self.overlay + b"redirect"

    @property
    def opaque(self) -> bytes:
        """The xattr that hides a directory's namesakes in lower layers."""
        return self.overlay + b"opaque"

    def redirect_to(self, name: bytes) -> bytes:
        """The absolute path, in the layers below, of the content `name`."""
        digits = name.hex().encode()
        if self.forest:
            return b"/%b/%b" % (self.forest, digits)
        return b"/%b/%b" % (digits[:2], digits[2:])


_TRUSTED = b"trusted.overlay."
_BOTH = (_TRUSTED, b"user.overlay.")
_HEX_NAMES = tuple(b"%02x" % byte for byte in range(256))

COMPOSEFS_V0 = Profile(b"", _HEX_NAMES, False, (_TRUSTED,), composefs_version=0)
"""Bit for bit what ``mkcomposefs`` 1.0.8 writes by default, for trees without whiteouts."""

COMPOSEFS_V1 = Profile(b"", _HEX_NAMES, False, (_TRUSTED,), composefs_version=1)
"""What ``mkcomposefs --min-version=1`` writes."""

LAYER = Profile(FOREST.encode(), (FOREST.encode(),), True, _BOTH)
"""A layer's metadata image as als mounts it."""

LAYER_BARE = Profile(b"", _HEX_NAMES, True, _BOTH)
"""The classical form of a layer image, with the forest at the top and 256 whiteouts."""
