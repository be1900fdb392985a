"""Which registries of registries.conf are mirrored by als."""

from __future__ import annotations

import re
from collections.abc import Iterable

from als.errors import ConfigError
from als.registry.conf import RegistriesConf
from als.registry.mirrored import addresses, location_for


def is_our_mirror(location: str, prefix: str) -> bool:
    """Whether a mirror of that prefix has the form that `als setup` writes, with whatever port."""
    found = re.match(r"127\.0\.0\.1:(\d{1,5})/", location)
    try:
        return found is not None and location == location_for(prefix, int(found[1]))
    except ConfigError:
        return False


def mirrored(conf: RegistriesConf, port: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prefixes that have our mirror on that port, and those with one like ours on another port alone."""
    here: list[str] = []
    elsewhere: list[str] = []
    for prefix, registry in sorted(conf.registries.items()):
        locations = [mirror.location for mirror in registry.mirrors]
        if any(location.partition("/")[0] in addresses(port) for location in locations):
            here.append(prefix)
        elif any(is_our_mirror(location, prefix) for location in locations):
            elsewhere.append(prefix)
    return tuple(here), tuple(elsewhere)


def some(names: Iterable[str], most: int = 4) -> str:
    """A few names, for one line."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
