"""``als mount``: what a boot takes away and containers need before any daemon runs."""

from __future__ import annotations

import click

from als.cli.output import print_json
from als.config import Config
from als.errors import KernelError
from als.service import Service
from als.service.recovery import bring_back_mounts, put_right


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def command(config: Config, as_json: bool) -> None:
    """Mount the layers of podman 4's image store that are not mounted, as after a boot.

    Needs neither network nor daemon: als-mount.service runs it before containers are started. The image store of podman 5 and
    CRI-O needs no mounts of als. What is found damaged is taken out of service, as when the daemon starts.
    """
    with Service(config) as service:
        # Clients mount the images of the image store of podman 5 without looking: what was swapped while this was off must go.
        put_right(service)
        mounts = bring_back_mounts(service)
    if as_json:
        print_json({"layers": mounts.layers, "missing": list(mounts.missing)})
    else:
        click.echo(f"{mounts.layers} layers, {mounts.layers - len(mounts.missing)} mounted")
    if mounts.missing:
        what = f"{len(mounts.missing)} layers could not be mounted"
        raise KernelError(
            what, where=str(config.image_store4), hint="the log says why of each; `als fsck` looks at their files"
        )
