"""``als df``: space taken, and space saved."""

from __future__ import annotations

from dataclasses import asdict

import click

from als.cli.output import bytes_text, print_facts, print_json, print_table
from als.config import Config
from als.service import Service
from als.service.usage import measure


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def command(config: Config, as_json: bool) -> None:
    """Show what images take, alone and together, and what sharing saves."""
    with Service(config) as service:
        usage = measure(service)
    if as_json:
        print_json({**asdict(usage), "saved": usage.saved})
        return
    rows = [
        (image.reference, bytes_text(image.size), bytes_text(image.unique), bytes_text(image.shared)) for image in usage.images
    ]
    print_table(("REFERENCE", "SIZE", "UNIQUE", "SHARED"), rows)
    click.echo()
    print_facts(
        {
            "objects on disk": bytes_text(usage.objects),
            "metadata on disk": bytes_text(usage.metadata),
            "without sharing": bytes_text(usage.unshared),
            "saved": bytes_text(usage.saved),
        }
    )
