"""``als serve``: the daemon."""

from __future__ import annotations

import logging
import os

import click

from als.config import Config
from als.fuse import serve
from als.fuse.layers import StoreBackend
from als.service import Service
from als.store.atomic import write_atomically

log = logging.getLogger(__name__)


@click.command()
@click.pass_obj
def command(config: Config) -> None:
    """Serve the Additional Layer Store at ROOT/store until SIGTERM or SIGINT.

    Layers of former runs are mounted again first. Containers and images keep working when this ends; only layers that nobody
    has pulled yet are not to be had meanwhile.
    """
    with Service(config) as service:
        service.recover()
        service.workers.start()
        pid_file = config.run / "als.pid"

        def ready() -> None:
            write_atomically(pid_file, f"{os.getpid()}\n".encode(), mode=0o644)
            log.info("serving %s", config.layer_store)

        try:
            serve.run(StoreBackend(service), config.layer_store, ready=ready)
        finally:
            pid_file.unlink(missing_ok=True)
