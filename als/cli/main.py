"""The command line: global options, and one file of this package for each verb.

A verb is a module with a ``command``; there is no list of them. Errors of als's own tree end here, in one line for the user and
an exit status (:mod:`als.cli.exitcodes`); anything else is a defect and shows its traceback.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from pathlib import Path

import click

import als.cli
from als.cli import logs
from als.cli.exitcodes import exit_code
from als.config import DEFAULT_FILE, load_config
from als.errors import AlsError


class Verbs(click.Group):
    """The group of all verbs, found by name and loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = (info.name for info in pkgutil.iter_modules(als.cli.__path__))
        return sorted(name for name in names if self.get_command(ctx, name) is not None)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in {info.name for info in pkgutil.iter_modules(als.cli.__path__)}:
            return None
        found = getattr(importlib.import_module(f"als.cli.{cmd_name}"), "command", None)
        return found if isinstance(found, click.Command) else None


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--root", type=click.Path(path_type=Path), help="Where the store is (default /var/lib/als).")
@click.option("--run", type=click.Path(path_type=Path), help="Where sockets and locks are (default /run/als).")
@click.option("--config", "file", type=click.Path(path_type=Path), help=f"The configuration file (default {DEFAULT_FILE}).")
@click.version_option(package_name="als", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, root: Path | None, run: Path | None, file: Path | None) -> None:
    """One store of files for all container images: an Additional Layer Store for podman, CRI-O and Buildah.

    An image is named by the reference it was pulled by (oci:DIR[:TAG] and oci-archive:FILE included) or by its digest.

    Exit status: 0 success, 1 any other error, 2 wrong usage or configuration, 3 not found, 4 the registry cannot be reached or
    refuses, 5 the image is malformed or cannot be served, 6 the store is full, damaged or locked, 7 the kernel lacks
    something, 130 interrupted.
    """
    overrides = {name: value.absolute() for name, value in (("root", root), ("run", run)) if value is not None}
    config = load_config(file, overrides)
    logs.start(config.log_level, os.environ)
    ctx.obj = config


def main() -> None:
    """The entry point ``als``."""
    try:
        # Without click's own boundary: it would end the process before our errors reach ours.
        status = cli.main(prog_name="als", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except AlsError as error:
        message = f"als: {error.where}: {error.what}" if error.where else f"als: {error.what}"
        click.echo(message, err=True)
        if error.hint:
            click.echo(f"     {error.hint}", err=True)
        sys.exit(exit_code(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("als: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain again when it flushes at exit.
        sys.stderr.close()
        sys.exit(1)
