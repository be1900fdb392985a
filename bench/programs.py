"""Which podmans and upstream tools there are to be measured with."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import TOOLS_BESIDE
from tests.conftest import unpacked as unpacked_tools
from tests.harness.clients import Client, Unavailable, fetch
from tests.harness.demo import CACHE
from tests.harness.podman import Binaries


def podman_option(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--podman``; its values are for :func:`podmans`."""
    text = f"a podman unpacked in DIR; default: {default}"
    parser.add_argument("--podman", type=Path, action="append", default=[], metavar="DIR", help=text)


def lazy_options(parser: argparse.ArgumentParser) -> None:
    """Add what describes the link, and who is measured over it."""
    parser.add_argument("--rtt", type=float, default=20, help="of the link, in milliseconds (default %(default)s)")
    parser.add_argument("--rate", type=float, default=200, help="of the link, in Mbit/s (default %(default)s)")
    podman_option(parser, "newer Debians'")
    parser.add_argument("--skopeo", type=Path, metavar="FILE", help="one that writes zstd:chunked")
    parser.add_argument("--tools", type=Path, metavar="DIR", help="with upstream's estargz-convert and stargz-store")


def newer(named: Sequence[Path], *suites: str) -> list[Client]:
    """Clients of other suites of Debian, unless podmans were named or this machine cannot have them."""
    try:
        return [] if named else [fetch(suite, CACHE) for suite in suites]
    except Unavailable as reason:
        print(f"only this machine's podman: {reason}", file=sys.stderr)
        return []


def podmans(named: Sequence[Path], clients: Sequence[Client]) -> list[Binaries]:
    """This machine's own, those that were named, and those of `clients`."""
    return [Binaries(), *map(unpacked, named), *(client.binaries for client in clients)]


def unpacked(folder: Path) -> Binaries:
    """A podman that was unpacked: its programs in ``bin``, those that it starts itself in ``helpers`` (as in the cache), or in
    ``root/usr/lib/podman``."""
    folder = folder.absolute()
    podman, crun, conmon = (str(folder / "bin" / name) for name in ("podman", "crun", "conmon"))
    helpers = folder / "helpers"
    return Binaries(
        podman, crun, conmon, helpers=str(helpers if helpers.is_dir() else folder / "root" / "usr" / "lib" / "podman")
    )


def upstream_tools(what: str) -> Path | None:
    """The folder of upstream's tools; None, and a line that tells what is not measured: they are not here."""
    source = Path(os.environ.get("ALS_UPSTREAM_TOOLS") or TOOLS_BESIDE)
    if not source.exists():
        print(f"no {what}: upstream's tools are not here", file=sys.stderr)
        return None
    return source if source.is_dir() else unpacked_tools(source, "upstream-tools")
