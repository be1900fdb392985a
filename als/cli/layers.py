"""``als layers``: what the store holds, by layer."""

from __future__ import annotations

import click

from als.cli.output import bytes_text, print_json, print_table, time_text
from als.config import Config
from als.model.digest import Digest
from als.service import Service


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def command(config: Config, as_json: bool) -> None:
    """List the layers in the store."""
    with Service(config) as service:
        users: dict[Digest, list[str]] = {}
        for ref in service.images.refs():
            for diff_id in dict.fromkeys(service.images.get(ref.digest).config.diff_ids):
                users.setdefault(diff_id, []).append(ref.reference)
        found = [{**record.to_json(), "images": users.get(record.diff_id, [])} for record in service.layers.all()]
        records = service.layers.all()
    if as_json:
        print_json(found)
        return
    rows = [
        (
            record.diff_id.hex[:12],
            record.format,
            str(record.names),
            bytes_text(record.diff_size),
            str(len(users.get(record.diff_id, []))),
            time_text(record.created),
        )
        for record in records
    ]
    print_table(("DIFFID", "FORMAT", "NAMES", "SIZE", "IMAGES", "CREATED"), rows)
