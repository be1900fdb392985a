"""Which change crio.conf needs. Pure.

CRI-O reads storage.conf, so the stores are named there. But with any additional image store it must not repair its storage by
itself: after a kill its check takes every container on such a store for damaged and, since it cannot repair them, removes
all that it has (docs/crio.md). So the stores are never named without switching that off.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from als.doctor.crioconf import parse_crio_conf
from als.setup.edits import Edit, Kind, parse

HEADER = b"# Made by `als setup`; `als setup --undo` removes it. crio.conf(5)\n\n"
_REPAIR = ("crio", "internal_repair")


def crio_edit(files: Sequence[tuple[Path, bytes]], drop_in: Path) -> tuple[Path, Edit] | None:
    """The change that switches CRI-O's repair off, and the file it belongs in; None: it is off.

    :param files: all of CRI-O's files, those that count more later.
    :param drop_in: our own file, which may be among them.
    :raises ConfigError: a file is malformed.
    """
    deciding: tuple[Path, bool] | None = None
    for path, data in files:
        table = parse(data, str(path)).get("crio", {})
        conf = parse_crio_conf(data.decode("utf-8"), str(path))
        if "internal_repair" in table:
            deciding = (path, conf.internal_repair)
    if deciding is None:
        return drop_in, Edit(Kind.FLAG, _REPAIR, None, "false")
    path, on = deciding
    return (path, Edit(Kind.FLAG, _REPAIR, "true", "false")) if on else None
