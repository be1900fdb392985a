"""``als pull``: have images in the store before anybody asks for them."""

from __future__ import annotations

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

    Prints the digest of each image's manifest.
    """
    with Workers(config.worker_ids(), config.run / "empty") as workers:
        # The workers' modules take as long to load as our own: both at once is a quarter of a second less for each pull.
        workers.start()
        _pull(config, workers, references, quiet)


def _pull(config: Config, workers: Workers, references: tuple[str, ...], quiet: bool) -> None:
    from als.cli.progress import display
    from als.model.reference import parse_reference
    from als.service import Service

    with Service(config, workers=workers) as service:
        for text in references:
            reference = parse_reference(text)
            if quiet:
                image = service.pull(reference)
            else:
                click.echo(f"pulling {reference}", err=True)
                with display(sys.stderr.isatty()) as shown:
                    image = service.pull(reference, shown)
            click.echo(str(image.digest))
