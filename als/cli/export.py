"""``als export``: an image in a form that other programs read."""

from __future__ import annotations

from pathlib import Path

import click

from als.cli.output import print_json
from als.config import Config
from als.service import Service
from als.service.export import PROFILES, export_composefs
from als.store.lock import sharing


@click.command()
@click.option("--composefs", is_flag=True, required=True, help="As one composefs file, as mkcomposefs writes it.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file (default: IMAGE's digest and .cfs).")
@click.option("--objects", type=click.Path(path_type=Path), help="A folder that gets the files, by fs-verity digest.")
@click.option("--min-version", type=click.Choice([str(each) for each in PROFILES]), default="0", help="As mkcomposefs has it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.argument("image")
@click.pass_obj
def command(
    config: Config, composefs: bool, output: Path | None, objects: Path | None, min_version: str, as_json: bool, image: str
) -> None:
    """Write IMAGE, all of its layers in one, as a composefs file, and print the file's fs-verity digest.

    The file is the same that mkcomposefs makes of the same files, so its digest says what the image is. With --objects, which
    has to be on the store's file system (the files are hardlinks), it can be mounted:

        mount.composefs -o basedir=OBJECTS,digest=DIGEST FILE FOLDER
    """
    with Service(config) as service, sharing(service.layout.lock):
        found = service.find(image)
        target = output or Path(f"{found.digest.hex[:12]}.cfs")
        done = export_composefs(service, found, target.absolute(), objects=objects, version=int(min_version))
    if as_json:
        print_json({"file": str(target), "digest": done.digest, "sealed": done.sealed, "objects": done.objects})
        return
    click.echo(done.digest)
    if not done.sealed:
        click.echo("the file is not sealed with fs-verity here: mount.composefs wants it to be, for digest=", err=True)
