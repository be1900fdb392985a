"""``als pull``: have images in the store before anybody asks for them."""

from __future__ import annotations

import sys

import click

from als.cli.progress import display
from als.config import Config
from als.model.reference import parse_reference
from als.service import Service


@click.command()
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but the images' digests.")
@click.pass_obj
def command(config: Config, references: tuple[str, ...], quiet: bool) -> None:
    """Pull images into the store and publish them to podman. Needs no daemon, and does not mind one.

    Prints the digest of each image's manifest.
    """
    with Service(config) as service:
        for text in references:
            reference = parse_reference(text)
            if quiet:
                image = service.pull(reference)
            else:
                click.echo(f"pulling {reference}", err=True)
                with display(sys.stderr.isatty()) as shown:
                    image = service.pull(reference, shown)
            click.echo(str(image.digest))
