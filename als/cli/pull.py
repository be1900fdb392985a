"""``als pull``: have images in the store before anybody asks for them.

Modules are imported where they are needed: what a daemon does, this process does not have to load.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from als.config import Config
from als.control.client import Daemon, NotHere, Pulled, daemon, portable

if TYPE_CHECKING:
    from als.cli.progress import Display
    from als.model.manifest import Descriptor

_Puller = Callable[[str, "Display | None"], Pulled]


@click.command()
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but the images' digests.")
@click.option("--local", is_flag=True, help="Do not ask the daemon to do it, even if one runs.")
@click.pass_obj
def command(config: Config, references: tuple[str, ...], quiet: bool, local: bool) -> None:
    """Pull images into the store and publish them to podman. A daemon of the same store does it, if one runs; none is needed.

    podman lists them as its own, read-only. Where policy.json wants signatures, only their layers are published: podman's own
    pull then verifies the image, and downloads nothing but its manifest.

    Registries, credentials and proxies are those of this command's environment, whoever does the work.

    Prints the digest of each image's manifest.
    """
    todo = list(references)
    if not local and portable(references, os.environ):
        with daemon(config) as found:
            while found is not None and todo:
                try:
                    _pull(todo[0], quiet, _through(found))
                except NotHere:
                    break
                del todo[0]
    if todo:
        with ExitStack() as stack:
            pull = _by_ourselves(config, stack)
            for text in todo:
                _pull(text, quiet, pull)
            # Nor is it worth the time when Python ends: it would look once more, through all that is left.
            gc.freeze()


def _pull(text: str, quiet: bool, pull: _Puller) -> None:
    if quiet:
        pulled = pull(text, None)
    else:
        from als.cli.progress import display
        from als.model.reference import parse_reference

        click.echo(f"pulling {parse_reference(text)}", err=True)
        with display(sys.stderr.isatty()) as shown:
            pulled = pull(text, shown)
        if pulled.layers_only:
            click.echo(f"published its layers only, `podman pull` it before use: {pulled.layers_only}", err=True)
    click.echo(pulled.digest)


def _through(found: Daemon) -> _Puller:
    """Pulls that the daemon does."""

    def pull(text: str, shown: Display | None) -> Pulled:
        return found.pull(text, None if shown is None else _Shown(shown))

    return pull


def _by_ourselves(config: Config, stack: ExitStack) -> _Puller:
    """Pulls that this process does."""
    from als.worker.client import Workers

    # A pull leaves no cycles worth the time of looking for them through all modules and the growing tree, again and again.
    gc.disable()
    workers = stack.enter_context(Workers(config.worker_ids(), config.run / "empty"))
    # The workers' modules take as long to load as our own: both at once is a quarter of a second less for each pull.
    workers.start()
    from als.model.policy import Listing
    from als.model.reference import parse_reference
    from als.service import Service
    from als.service.listing import verdict

    service = stack.enter_context(Service(config, workers=workers))

    def pull(text: str, shown: Display | None) -> Pulled:
        reference = parse_reference(text)
        image = service.pull(reference, shown, asked=True)
        found = verdict(reference, service.environment.home)
        layers_only = "" if found.listing is Listing.LISTED else f"{found.policy}: {found.reason}"
        return Pulled(str(image.digest), layers_only)

    return pull


class _Shown:
    """Shows what the daemon tells of its progress."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._layers: dict[str, Descriptor] = {}
        self._at: dict[str, int] = {}

    def __call__(self, message: Mapping[str, Any]) -> None:
        name = str(message["layer"])
        layer = self._layers.get(name) or self._add(name, int(message.get("begins", 0)))
        if "begins" in message:
            self._display.begins(layer)
        if "done" in message:
            self._display.done(layer, fetched=bool(message["done"]))
        elif "at" in message:
            self._display.advances(layer, int(message["at"]) - self._at.get(name, 0))
            self._at[name] = int(message["at"])

    def _add(self, name: str, size: int) -> Descriptor:
        from als.model.digest import Digest
        from als.model.manifest import Descriptor

        self._layers[name] = Descriptor("", Digest.parse(name), size)
        return self._layers[name]
