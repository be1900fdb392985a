"""``als rm``: take images' references away."""

from __future__ import annotations

import click

from als.cli.output import print_json
from als.config import Config
from als.service import Service
from als.service.removal import Removed, remove


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def command(config: Config, images: tuple[str, ...], as_json: bool) -> None:
    """Remove references to images.

    Given a digest, all references to that image go. Containers and images of podman that use it are not touched: what they
    use is listed, and stays until they are gone. `als gc` frees what nobody uses.
    """
    with Service(config) as service:
        removed = [remove(service, name) for name in images]
    if as_json:
        print_json([_facts(each) for each in removed])
        return
    for each in removed:
        _explain(each)


def _facts(removed: Removed) -> dict[str, object]:
    return {
        "references": removed.references,
        "digest": str(removed.digest),
        "remaining": removed.names,
        "in_use": [{"kind": holder.kind, "name": holder.name, "where": holder.where} for holder in removed.holders],
        "unknown": removed.unknown,
    }


def _explain(removed: Removed) -> None:
    for reference in removed.references:
        click.echo(f"removed {reference}")
    if removed.names:
        click.echo(f"  the image stays as {', '.join(removed.names)}")
    elif removed.holders or removed.unknown:
        click.echo("  in use, and kept until that ends:")
        for holder in removed.holders:
            click.echo(f"    {holder}")
        for reason in removed.unknown:
            click.echo(f"    unknown: {reason}")
    else:
        click.echo("  nobody uses it: `als gc` frees its space")
