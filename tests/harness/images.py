"""Images that the tests run: small ones around the machine's own static busybox, and arbitrary ones from tar streams."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.harness.ocilayout import EPOCH, LayerBlob, Layout, TarBuilder

BUSYBOX = Path("/bin/busybox")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\n"
GROUP = b"root:x:0:\ndaemon:x:1:\n"


def runnable_base(mtime: int = EPOCH) -> bytes:
    """A tar stream with a small root file system: busybox, its applets, /etc/passwd, /tmp.

    :raises FileNotFoundError: busybox-static is not installed.
    """
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True, timeout=30).stdout.split()
    tar = TarBuilder(mtime)
    for folder in ("bin", "dev", "etc", "proc", "root", "run", "sys", "usr", "usr/bin", "var", "var/lib"):
        tar.directory(folder)
    tar.directory("tmp", mode=0o1777)
    tar.file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755)
    for applet in applets:
        if applet != "busybox":
            tar.symlink(f"bin/{applet}", "busybox")
    tar.file("etc/passwd", PASSWD).file("etc/group", GROUP)
    return tar.build()


class ImageFactory:
    """Makes images in one OCI layout; the base layer is written once."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder)
        self._base: LayerBlob | None = None

    @property
    def base(self) -> LayerBlob:
        """The runnable bottom layer."""
        if self._base is None:
            self._base = self.layout.add_layer(runnable_base())
        return self._base

    def runnable(self, tag: str, upper: Sequence[bytes] = (), compression: str = "gzip") -> list[LayerBlob]:
        """An image of the runnable base and the given tar streams on top of it; returns its layers, bottom first."""
        layers = [self.base, *(self.layout.add_layer(tar, compression) for tar in upper)]
        self.layout.add_image(tag, layers)
        return layers

    def tower(self, tag: str, height: int, mtime: int = EPOCH) -> list[LayerBlob]:
        """A runnable image of `height` layers; layer n > 0 writes /stack/n and overwrites /stack/top.

        Towers of one `mtime` have their lower layers in common; those of different ones have nothing.
        """
        layers = [self.layout.add_layer(runnable_base(mtime))]
        for n in range(1, height):
            tar = TarBuilder(mtime).directory("stack").file(f"stack/{n}", b"%d\n" % n).file("stack/top", b"%d\n" % n)
            layers.append(self.layout.add_layer(tar.build()))
        self.layout.add_image(tag, layers)
        return layers

    def scratch(self, tag: str, layers: Sequence[bytes], compression: str = "gzip") -> list[LayerBlob]:
        """An image of nothing but the given tar streams."""
        blobs = [self.layout.add_layer(tar, compression) for tar in layers]
        self.layout.add_image(tag, blobs)
        return blobs
