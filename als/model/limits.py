"""How much an image may ask for before it is refused. One place, so that no parser invents its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a single layer (or manifest) may declare; each is far above what real images have."""

    manifest_bytes: int = 4 << 20
    """containers/image refuses larger manifests too."""
    config_bytes: int = 16 << 20
    entries: int = 4_000_000
    name_bytes: int = 255
    """NAME_MAX of every file system the layer could have come from."""
    path_bytes: int = 1 << 16
    depth: int = 4096
    target_bytes: int = 4095
    """PATH_MAX without its final NUL: longer symlink targets cannot exist in the kernel."""
    xattr_bytes: int = 1 << 16
    """XATTR_SIZE_MAX, for one value."""
    xattrs_total_bytes: int = 1 << 17
    """For all names and values of one inode."""
    steps: int = 1 << 28
    """Directories passed on the way to all names of a layer together; about a minute's worth. Honest layers stay a hundred
    times below: names in the same directory are looked up at once, unless the layer keeps replacing what leads there."""
    metadata_bytes: int = 1 << 29
    """Names, symlink targets, xattrs and tiny files of a layer together, all of which are held in memory; a layer of a
    million files has a tenth of it."""
    header_bytes: int = 4 << 20
    """One PAX or GNU long-name header."""
    layer_bytes: int = 1 << 38
    """Uncompressed, holes of sparse files included."""
    file_bytes: int = 1 << 38
    toc_bytes: int = 256 << 20
    """A lazily readable layer's index (or its tar-split) as it is in the blob; containers/storage reads 150 MiB."""
    toc_text_bytes: int = 4 << 30
    """The same decompressed. It is read as it is decompressed and never held; a million files have about 0.4 GiB."""
    chunks: int = 8_000_000
    """In all files of a lazily readable layer; most files have one, and zstd:chunked makes one of about 64 KiB."""
    expansion: int = 2000
    """Uncompressed bytes per compressed byte beyond the first `expansion_floor` bytes. DEFLATE cannot exceed 1,032; zstd
    reaches 32,000 with zeros, which an honest layer has some of, but not without end."""
    expansion_floor: int = 4 << 30


DEFAULT_LIMITS = Limits()
