"""``als serve`` among daemons: becoming the keeper of one, and clearing up after the last."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import click

from als.config import Config
from als.fuse.mountpoint import FSTYPE, resolve
from als.mount.lazy import withdraw
from als.mount.table import find_mount

log = logging.getLogger(__name__)

_LEAST_WATCHDOG_SECONDS = 5.0
_SYSTEMCTL_SECONDS = 10.0
_UNIT = "als.service"


def become_keeper(ctx: click.Context, config: Config) -> NoReturn:
    """Replace this process by the keeper of a daemon that is started with the same options."""
    outer = ctx.parent.params if ctx.parent is not None else {}
    options = [part for name in ("root", "run") for part in _option(name, outer.get(name))] + _option(
        "config", outer.get("file")
    )
    keeper = {
        "mountpoint": resolve(config.layer_store),
        "fstype": FSTYPE,
        "run": config.run,
        # A lookup is answered within this time, and one for which a daemon that hangs was asked is no exception.
        "watchdog": max(config.lookup_deadline, _LEAST_WATCHDOG_SECONDS),
        "log-level": config.log_level.upper(),
    }
    settings = [part for name, value in keeper.items() for part in _option(name, value)]
    command = [*options, "serve"]
    standby = [f"--standby={part}" for part in (sys.executable, "-m", "als.cli.standby", *command)]
    os.execv(
        sys.executable, [sys.executable, "-m", "als.keeper", *settings, *standby, "--", sys.executable, "-m", "als", *command]
    )


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [f"--{name}", str(value)]


def clean_up(layer_store: Path, variables: Mapping[str, str]) -> None:
    """Unmount what a service left that ended for good. To be called by ``ExecStopPost=``.

    :param variables: what systemd has set (systemd.exec(5)): SERVICE_RESULT is not ``success`` of a service that died, which
        starts anew by itself; of one that is restarted on purpose the pending job tells.
    """
    if variables.get("SERVICE_RESULT", "success") != "success" or _is_restarting():
        log.info("it starts anew: %s stays mounted", layer_store)
        return
    where = resolve(layer_store)
    entry = find_mount(where)
    if entry is not None and entry.fstype == FSTYPE:
        withdraw(where)


def _is_restarting() -> bool:
    """Whether systemd has a job that starts the unit again."""
    try:
        command = ["systemctl", "list-jobs", "--no-legend", "--plain", _UNIT]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SYSTEMCTL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("systemd does not say whether the service starts again: %s", error)
        return False
    jobs = [line.split() for line in found.stdout.splitlines()]
    return any(job[1:3] in ([_UNIT, "restart"], [_UNIT, "start"]) for job in jobs)
