"""``als images``: what the store holds, by reference."""

from __future__ import annotations

import click

from als.cli.output import bytes_text, print_json, print_table, time_text
from als.config import Config
from als.service import Service


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def command(config: Config, as_json: bool) -> None:
    """List the images in the store."""
    with Service(config) as service:
        found = []
        for ref in service.images.refs():
            image = service.images.get(ref.digest)
            records = [service.layers.get(diff_id) for diff_id in image.config.diff_ids if service.layers.has(diff_id)]
            complete = len(records) == len(image.config.diff_ids)
            found.append(
                {
                    "reference": ref.reference,
                    "digest": str(ref.digest),
                    "layers": len(image.manifest.layers),
                    "size": sum(record.diff_size for record in records),
                    "state": "complete" if complete else "incomplete",
                    "pulled": ref.pulled,
                    "asked": ref.asked,
                }
            )
    if as_json:
        print_json(found)
        return
    rows = [
        (
            str(entry["reference"]),
            str(entry["digest"])[7:19],
            str(entry["layers"]),
            bytes_text(int(str(entry["size"]))),
            str(entry["state"]),
            time_text(float(str(entry["pulled"]))),
        )
        for entry in found
    ]
    print_table(("REFERENCE", "DIGEST", "LAYERS", "SIZE", "STATE", "PULLED"), rows)
