"""``als df``: space taken, and space saved."""

from __future__ import annotations

from dataclasses import asdict

import click

from als.cli.output import bytes_text, print_facts, print_json, print_table
from als.config import Config
from als.service import Service
from als.service.usage import LayerUsage, measure, measure_layers


@click.command()
@click.option("--verbose", "-v", is_flag=True, help="Show each layer as well, and who keeps it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def command(config: Config, verbose: bool, as_json: bool) -> None:
    """Show what images take, alone and together, and what sharing saves.

    Of lazy layers, what is here is counted by itself: files that only they have, and parts of files.
    """
    with Service(config) as service:
        usage = measure(service)
        layers = measure_layers(service) if verbose else ()
    if as_json:
        print_json(
            {**asdict(usage), "saved": usage.saved, **({"by_layer": [_facts(layer) for layer in layers]} if verbose else {})}
        )
        return
    rows = [
        (image.reference, bytes_text(image.size), bytes_text(image.unique), bytes_text(image.shared)) for image in usage.images
    ]
    print_table(("REFERENCE", "SIZE", "UNIQUE", "SHARED"), rows)
    click.echo()
    print_facts(
        {
            "objects on disk": bytes_text(usage.objects),
            "files of lazy layers": bytes_text(usage.lazy),
            "parts of files": bytes_text(usage.partial),
            "metadata on disk": bytes_text(usage.metadata),
            "without sharing": bytes_text(usage.unshared),
            "saved": bytes_text(usage.saved),
        }
    )
    if verbose:
        click.echo()
        print_table(("LAYER", "SIZE", "UNIQUE", "SHARED", "METADATA", "KEPT BY"), [_row(layer) for layer in layers])


def _row(layer: LayerUsage) -> tuple[str, ...]:
    sizes = (bytes_text(count) for count in (layer.size, layer.unique, layer.shared, layer.metadata))
    return (layer.diff_id.hex[:12], *sizes, ", ".join(map(str, layer.holders)) or "nobody")


def _facts(layer: LayerUsage) -> dict[str, object]:
    return {
        "diff_id": str(layer.diff_id),
        "size": layer.size,
        "unique": layer.unique,
        "shared": layer.shared,
        "metadata": layer.metadata,
        "holders": [asdict(holder) for holder in layer.holders],
    }
