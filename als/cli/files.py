"""``als files``: every name of an image's layers with all its attributes."""

from __future__ import annotations

import json

import click

from als.config import Config
from als.errors import NotFound
from als.service import Service
from als.service.contents import describe_layer, layer_tree


@click.command()
@click.argument("image")
@click.option("--layer", type=click.IntRange(min=0), metavar="N", help="Only this layer; 0 is the lowest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def command(config: Config, image: str, layer: int | None, as_json: bool) -> None:
    """List what each layer of IMAGE holds, lowest layer first.

    A JSON line has: layer, path, type (file, dir, symlink, char, block, fifo, whiteout), mode, uid, gid, mtime [s, ns],
    size, and where they apply sha256, linkname, rdev, xattrs {name: hex}, ino (equal for hardlinks) and opaque.
    """
    with Service(config) as service:
        diff_ids = service.find(image).config.diff_ids
        if layer is not None and layer >= len(diff_ids):
            raise NotFound(f"the image has layers 0 to {len(diff_ids) - 1}", where=f"layer {layer} of {image}")
        first_ino = 1
        for index in range(len(diff_ids)) if layer is None else (layer,):
            tree = layer_tree(service, diff_ids[index])
            last = first_ino - 1
            for entry in describe_layer(tree, index, first_ino):
                last = max(last, int(str(entry.get("ino", 0))))
                click.echo(json.dumps(entry, ensure_ascii=True) if as_json else _line(entry))
            first_ino = last + 1


def _line(entry: dict[str, object]) -> str:
    """In the manner of ``ls -l``."""
    owner = f"{entry.get('uid', '-')}:{entry.get('gid', '-')}"
    text = f"{entry['layer']:>3} {entry['type']:<8} {entry.get('mode', '-'):<5} {owner:<11} {entry.get('size', '-'):>11}"
    # Names may hold bytes that are no text, and control characters that a terminal would obey.
    path = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(entry["path"]))
    target = f" -> {entry['linkname']}" if "linkname" in entry else ""
    return f"{text} {path}{target}{' (opaque)' if entry.get('opaque') else ''}"
