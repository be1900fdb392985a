"""The image that pulls are measured with: Debian minbase with python3-minimal in one layer, as a distribution's image comes.

196 MB in 7,500 files, 69 MB once gzip has compressed it at the level that image builders leave it at. It is made once, by
mmdebstrap from wherever this machine has its packages, and kept.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.harness.debs import Unavailable, debootstrap, only_one
from tests.harness.ocilayout import Layout

_SUITE = "bookworm"
_PACKAGE = "python3-minimal"
_TAG = f"{_SUITE}-{_PACKAGE}"


def debian_image(cache: Path) -> str | None:
    """The image's name for tools of containers/*; None, and a line that says why, where it cannot be made."""
    cache.mkdir(parents=True, exist_ok=True)
    with only_one(cache / "debian.lock"):
        layout = Layout(cache / "debian")
        try:
            if not layout.has(_TAG):
                _make(layout)
        except Unavailable as reason:
            print(f"no image of Debian: {reason}", file=sys.stderr)
            return None
        return layout.name(_TAG)


def _make(layout: Layout) -> None:
    """
    :raises Unavailable: this machine has no mmdebstrap, or the packages cannot be had.
    """
    if shutil.which("mmdebstrap") is None:
        raise Unavailable("this machine has no mmdebstrap")
    with tempfile.TemporaryDirectory(prefix="debian-", dir=layout.folder.parent) as folder:
        tar = Path(folder) / "root.tar"
        debootstrap(_SUITE, [_PACKAGE], tar)
        layout.add_image(_TAG, [layout.add_layer(tar.read_bytes(), "gzip-6")], {"Cmd": ["/usr/bin/python3"]})
