"""``als pull``: have images in the store before anybody asks for them."""

from __future__ import annotations

import gc
import sys

import click

from als.config import Config
from als.worker.client import Workers


@click.command()
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but the images' digests.")
@click.pass_obj
def command(config: Config, references: tuple[str, ...], quiet: bool) -> None:
    """Pull images into the store and publish them to podman. Needs no daemon, and does not mind one.

    podman lists them as its own, read-only. Where policy.json wants signatures, only their layers are published: podman's own
    pull then verifies the image, and downloads nothing but its manifest.

    Prints the digest of each image's manifest.
    """
    # A pull leaves no cycles worth the time of looking for them through all modules and the growing tree, again and again.
    gc.disable()
    with Workers(config.worker_ids(), config.run / "empty") as workers:
        # The workers' modules take as long to load as our own: both at once is a quarter of a second less for each pull.
        workers.start()
        _pull(config, workers, references, quiet)


def _pull(config: Config, workers: Workers, references: tuple[str, ...], quiet: bool) -> None:
    from als.cli.progress import display
    from als.model.policy import Listing
    from als.model.reference import parse_reference
    from als.service import Service
    from als.service.listing import verdict

    with Service(config, workers=workers) as service:
        for text in references:
            reference = parse_reference(text)
            if quiet:
                image = service.pull(reference, asked=True)
            else:
                click.echo(f"pulling {reference}", err=True)
                with display(sys.stderr.isatty()) as shown:
                    image = service.pull(reference, shown, asked=True)
            found = verdict(reference)
            if found.listing is not Listing.LISTED and not quiet:
                click.echo(f"published its layers only, `podman pull` it before use: {found.policy}: {found.reason}", err=True)
            click.echo(str(image.digest))
