"""``als cat``: a file's content."""

from __future__ import annotations

import sys

import click

from als.config import Config
from als.service import Service
from als.service.contents import file_content


@click.command()
@click.argument("image")
@click.argument("path")
@click.pass_obj
def command(config: Config, image: str, path: str) -> None:
    """Write the file PATH of IMAGE, as a container would read it, to standard output."""
    with Service(config) as service:
        for data in file_content(service, service.find(image), path):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
