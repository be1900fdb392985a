"""``als status``: how much of lazy images is here, and how it comes."""

from __future__ import annotations

import time

import click

from als.cli.looking import Looked, image_state, layer_state, look
from als.cli.output import bytes_text, print_json, print_table
from als.config import Config
from als.model.status import ImageStatus, LayerStatus, LinkStatus, State


@click.command()
@click.argument("image", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def command(config: Config, image: str | None, as_json: bool) -> None:
    """Show how far an image and its layers are; without IMAGE, all images that are not sealed.

    listed: clients can use it, and none of its bytes are here yet. lazy: they use it while its bytes come. complete: every
    file is here. sealed: its layers are verified whole, and need neither network nor daemon any more. refused: a layer is not
    what was promised, and is not shown any more. incomplete: a layer is missing.

    How much of a lazy layer is here only a running daemon knows.
    """
    found = look(config, image)
    if image is None:
        found = Looked(tuple(each for each in found.images if each.state is not State.SEALED), found.links, found.without)
    if as_json:
        daemon = {"answers": not found.without, "reason": found.without}
        images, links = [each.to_json() for each in found.images], [each.to_json() for each in found.links]
        print_json({"daemon": daemon, "images": images, "links": links})
        return
    if image is not None:
        _show_layers(found.images[0])
    elif found.images:
        rows = [(each.name, each.digest.hex[:12], image_state(each), *_sums(each)) for each in found.images]
        print_table(("IMAGE", "DIGEST", "STATE", "HERE", "FETCHED", "RATE"), rows)
    else:
        click.echo("everything is sealed")
    if found.links:
        click.echo()
        print_table(("HOST", "ROUND TRIP", "THROUGHPUT", "REQUESTS", ""), [_link_row(link) for link in found.links])
    if found.without:
        click.echo(f"{found.without}; how much of lazy layers is here is not known", err=True)


def _show_layers(image: ImageStatus) -> None:
    for name in image.references or ("(no reference)",):
        click.echo(name)
    click.echo(f"{image.digest}: {image_state(image)}")
    click.echo()
    print_table(("LAYER", "FORMAT", "STATE", "HERE", "FILES", "FETCHED", "NOW"), [_layer_row(layer) for layer in image.layers])
    for layer in image.layers:
        if layer.trouble:
            click.echo(f"layer {layer.digest.hex[:12]}{_ago(layer.troubled)}: {layer.trouble}")


def _layer_row(layer: LayerStatus) -> tuple[str, ...]:
    files = "-" if layer.files is None else f"{layer.files_here}/{layer.files}"
    fetched = bytes_text(layer.fetched) if layer.fetched else "-"
    return (layer.digest.hex[:12], layer.format or "-", layer_state(layer), _here(layer), files, fetched, _now(layer))


def _here(layer: LayerStatus) -> str:
    if layer.bytes is None or layer.bytes_here is None:
        return "-"
    if layer.bytes_here == layer.bytes:
        return bytes_text(layer.bytes)
    return f"{bytes_text(layer.bytes_here)} of {bytes_text(layer.bytes)}"


def _now(layer: LayerStatus) -> str:
    """What happens with it."""
    if layer.state is State.COMPLETE:
        return "to be verified"
    parts = [f"{_rate_text(layer.rate)} from {layer.place}"] if layer.rate else []
    if layer.filling is not None:
        parts.append("background fill" if layer.filling else "background fill is off")
    return ", ".join(parts)


def _sums(image: ImageStatus) -> tuple[str, str, str]:
    text = "-" if image.sizes is None else " of ".join(map(bytes_text, image.sizes))
    rate = sum(each.rate for each in image.layers)
    return text, bytes_text(sum(each.fetched for each in image.layers)), _rate_text(rate) if rate else "-"


def _link_row(link: LinkStatus) -> tuple[str, ...]:
    requests = f"{link.waited_for} waited for, {link.others} of {link.depth} others"
    resting = f"left alone for {link.resting:.1f} s after an error" if link.resting else ""
    return (link.host, f"{1000 * link.round_trip:.0f} ms", _rate_text(link.rate), requests, resting)


def _rate_text(rate: float) -> str:
    return f"{bytes_text(int(rate))}/s"


def _ago(moment: float) -> str:
    return f", {max(0.0, time.time() - moment):.0f} s ago" if moment else ""
