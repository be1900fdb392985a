"""``als gc``: free what nobody uses."""

from __future__ import annotations

from pathlib import Path

import click

from als.cli.output import bytes_text, print_facts, print_json
from als.config import Config
from als.errors import NotFound
from als.service import Service
from als.service.removal import WAIT_SECONDS, Garbage, collect


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--wait", type=click.FloatRange(0), default=WAIT_SECONDS, help="Seconds to wait for pulls that are under way.")
@click.option("--forget", type=click.Path(path_type=Path), multiple=True, help="A client's graph root that is gone for good.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def command(config: Config, dry_run: bool, wait: float, forget: tuple[Path, ...], as_json: bool) -> None:
    """Remove images without a reference, and layers and files that no image, client, container or mount uses.

    Podman and CRI-O are asked what they use, by all graph roots that storage.conf files, the settings and mounts tell of. If
    one cannot be read, everything that it might use stays.
    """
    with Service(config) as service:
        for path in forget:
            if not service.clients.forget(path.absolute()):
                raise NotFound("no such graph root was seen", where=str(path))
        garbage = collect(service, dry_run=dry_run, wait=wait)
    if as_json:
        print_json({"dry_run": dry_run, **_facts(garbage)})
        return
    print_facts(
        {
            "would be removed" if dry_run else "removed": f"{len(garbage.images)} images, {len(garbage.layers)} layers",
            "no longer published": f"{len(garbage.chains)} layers of images",
            "lazy layers": str(len(garbage.lazy)),
            "aborted attempts": str(garbage.attempts),
            "files": f"{garbage.objects}, {bytes_text(garbage.bytes)}",
        }
    )


def _facts(garbage: Garbage) -> dict[str, object]:
    return {
        "images": [str(digest) for digest in garbage.images],
        "chains": list(garbage.chains),
        "layers": [str(diff_id) for diff_id in garbage.layers],
        "lazy": list(garbage.lazy),
        "objects": garbage.objects,
        "bytes": garbage.bytes,
        "attempts": garbage.attempts,
        "links": garbage.links,
        "unknown": list(garbage.unknown),
    }
