"""``als images``: what the store holds, by reference."""

from __future__ import annotations

import click

from als.cli.looking import image_state, look
from als.cli.output import bytes_text, print_json, print_table, time_text
from als.config import Config
from als.model.digest import Digest
from als.model.status import ImageStatus, State
from als.service import Service
from als.service.status import status
from als.store.images import RefRecord


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def command(config: Config, as_json: bool) -> None:
    """List the images in the store, and how far they are: `als status --help` says what the states mean."""
    with Service(config) as service:
        refs = service.images.refs()
        looked = look(config)
        states = {image.digest: image for image in looked.images}
        for ref in refs:
            if ref.digest not in states:
                # Pulled since the daemon was asked.
                (states[ref.digest],) = status(service, str(ref.digest))
        sizes = {digest: _size(service, image) for digest, image in states.items()}
    if as_json:
        print_json([_facts(ref, states[ref.digest], sizes[ref.digest]) for ref in refs])
        return
    rows = [
        (
            ref.reference,
            ref.digest.hex[:12],
            str(len(states[ref.digest].layers)),
            bytes_text(sizes[ref.digest]),
            image_state(states[ref.digest]),
            time_text(ref.pulled),
        )
        for ref in refs
    ]
    print_table(("REFERENCE", "DIGEST", "LAYERS", "SIZE", "STATE", "PULLED"), rows)
    if looked.without and any(states[ref.digest].state in (State.LISTED, State.LAZY) for ref in refs):
        click.echo(f"{looked.without}; how much of lazy images is here is not known", err=True)


def _size(service: Service, image: ImageStatus) -> int:
    """Bytes of an image's uncompressed layers; of those that are not sealed, of their files, as far as they are known."""
    sizes: dict[Digest, int] = {}
    for layer in image.layers:
        if layer.state is State.SEALED and service.layers.has(layer.diff_id):
            sizes[layer.diff_id] = service.layers.get(layer.diff_id).diff_size
        else:
            sizes[layer.diff_id] = layer.bytes or 0
    return sum(sizes[layer.diff_id] for layer in image.layers)


def _facts(ref: RefRecord, image: ImageStatus, size: int) -> dict[str, object]:
    return {
        "reference": ref.reference,
        "digest": str(ref.digest),
        "layers": len(image.layers),
        "size": size,
        "state": str(image.state),
        "percent": image.percent,
        "pulled": ref.pulled,
        "asked": ref.asked,
    }
