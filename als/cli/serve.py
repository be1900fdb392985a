"""``als serve``: the daemon."""

from __future__ import annotations

import gc
import logging
import os
import threading
from contextlib import ExitStack

import click
from prometheus_client import CollectorRegistry

from als.cli import handing_over
from als.config import Config
from als.control.server import Control
from als.errors import ConfigError
from als.fuse import serve
from als.fuse.connection import is_held
from als.fuse.layers import StoreBackend
from als.keeper.manager import Manager
from als.metrics import serve as metrics
from als.metrics.meters import Meters
from als.mirror.serve import open_mirror
from als.native.listeners import Listeners
from als.service import Service
from als.service.healing import Healing
from als.service.lazily import Lazies
from als.service.recovery import bring_back, put_right
from als.service.scrub import Scrub
from als.store.atomic import write_atomically

log = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
_GARBAGE = 50_000
"""Objects that may gather before it is looked for cycles. Opening a layer makes some hundred thousand objects without one, and
looking through them again and again, as Python does for every 700, cost an eighth of the time."""


@click.command()
@click.option("--keep", is_flag=True, help="Restart the daemon when it dies, while readers wait: for machines without systemd.")
@click.option("--stopped", is_flag=True, help="For systemd, after the service ended: unmount ROOT/store unless it starts anew.")
@click.pass_context
def command(ctx: click.Context, *, keep: bool, stopped: bool) -> None:
    """Serve the Additional Layer Store at ROOT/store, the registry mirror and RUN/als.sock, until SIGTERM or SIGINT.

    Layers of former runs are mounted again first. Containers and images keep working when this ends; only layers that nobody
    has pulled yet are not to be had meanwhile.

    Where systemd or --keep restarts it, nothing is unmounted in between, and who reads a file that is not here yet waits for
    the next daemon. With --keep, SIGHUP to the process in RUN/keeper.pid has the daemon start anew, as after an upgrade.
    """
    config: Config = ctx.obj
    if stopped:
        handing_over.clean_up(config.layer_store, os.environ)
    elif keep:
        handing_over.become_keeper(ctx, config)
    else:
        _serve(config)


def _serve(config: Config) -> None:
    manager = Manager.of(os.environ, os.getpid())
    listeners = Listeners(manager)
    registry = CollectorRegistry()
    with Service(config, counters=Meters(registry)) as service:
        # With a connection that is taken over there are clients that wait, and some hold locks meanwhile.
        late = is_held(manager)
        put_right(service)
        if not late:
            bring_back(service)
        service.workers.start()
        # What is here stays; to look through it again and again would only make pulls slower.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE)
        pid_file = config.run / "als.pid"

        def announce() -> None:
            if manager is not None:
                manager.ready()
            write_atomically(pid_file, f"{os.getpid()}\n".encode(), mode=0o644)
            log.info("serving %s", config.layer_store)

        try:
            with ExitStack() as stack:
                lazies = stack.enter_context(Lazies(service))
                service.lazies = lazies
                _start_control(service, stack, listeners)
                stack.enter_context(metrics.serving(service, registry))
                _start_mirror(service, stack, listeners)
                healing = stack.enter_context(Healing(service))
                scrubbing = stack.enter_context(Scrub(service))

                def ready() -> None:
                    announce()
                    healing.begin()
                    scrubbing.begin()

                def answering() -> None:
                    try:
                        if late:
                            bring_back(service)
                    finally:
                        lazies.begin(ready)

                recovery = threading.Thread(target=answering, name="recovery", daemon=True)
                stack.callback(_join, recovery)
                # Before anybody can read: what is not known to be served is answered with an error.
                lazies.resume()
                outliving = serve.Outliving(config.run)
                if manager is not None:
                    outliving = serve.Outliving(config.run, manager, manager.alive, manager.alive_seconds)
                serve.run(StoreBackend(service), config.layer_store, outliving, ready=recovery.start)
        finally:
            pid_file.unlink(missing_ok=True)


def _join(thread: threading.Thread) -> None:
    if thread.ident is not None:
        thread.join(_STOP_SECONDS)
        if thread.is_alive():
            log.error("the %s has not ended after %g seconds", thread.name, _STOP_SECONDS)


def _start_control(service: Service, stack: ExitStack, listeners: Listeners) -> None:
    """Without it the command line works by itself."""
    try:
        stack.enter_context(Control(service, listeners))
    except ConfigError as error:
        log.error("no control socket: %s", error)


def _start_mirror(service: Service, stack: ExitStack, listeners: Listeners) -> None:
    """Without it pulls go to the registries themselves, so nothing here keeps the daemon from starting."""
    try:
        mirror = open_mirror(service, listeners)
        if mirror is not None:
            stack.enter_context(mirror)
            log.info("registry mirror at 127.0.0.1:%d", mirror.port)
    except ConfigError as error:
        log.error("no registry mirror: %s", error)
