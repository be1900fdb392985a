"""Our own registry mirror in registries.conf: which name lies behind a request to it, and what names it there.

A mirror is asked for ``LOCATION/REST`` where the image is ``PREFIX/REST``; the request does not tell the prefix. So it is found
by registries.conf itself: the block that has a mirror of ours whose location begins the path. This allows any location, and
nothing that the administrator did not write there can be asked for through the mirror.

By convention the location is the prefix itself below the mirror's address. A port cannot stand there (``:`` is no part of a
repository's name, and containers/image then refuses the whole pull instead of asking the registry), hence ``__`` in its place,
which no host contains.
"""

from __future__ import annotations

from als.errors import BadReference, ConfigError
from als.model.reference import Reference, Transport, parse_reference
from als.registry.conf import RegistriesConf

_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def addresses(port: int) -> frozenset[str]:
    """``HOST:PORT`` in every form by which registries.conf may name a mirror on this machine; none where there is no mirror."""
    return frozenset(f"{host}:{port}" for host in _HOSTS) if port else frozenset()


def location_for(prefix: str, port: int) -> str:
    """What to write as a mirror's location for a prefix.

    :raises ConfigError: the prefix has no such form (wildcards, IPv6 literals, upper case).
    """
    host, slash, path = prefix.partition("/")
    location = f"127.0.0.1:{port}/{host.replace(':', '__')}{slash}{path}"
    try:
        parse_reference(f"{location}/x")
    except BadReference as error:
        raise ConfigError("a mirror on this machine cannot be asked for it", where=prefix, hint="leave it without") from error
    return location


def name_behind(conf: RegistriesConf, path: str, port: int) -> str | None:
    """The repository (``domain/path``) that a request for `path` to our mirror stands for; None if registries.conf has none.

    What two blocks claim is nobody's: containers/image would send either of them here, and we could not tell which.
    """
    best, names = 0, set[str]()
    for registry in conf.registries.values():
        if registry.prefix.startswith("*."):
            continue
        for mirror in registry.mirrors:
            host, _, location = mirror.location.partition("/")
            if host not in addresses(port) or not location or not f"{path}/".startswith(f"{location}/"):
                continue
            name = registry.prefix + path[len(location) :]
            if len(location) > best:
                best, names = len(location), {name}
            elif len(location) == best:
                names.add(name)
    return names.pop() if len(names) == 1 else None


def reference_behind(conf: RegistriesConf, path: str, tag_or_digest: str, port: int) -> Reference | None:
    """The image or, for a blob, the repository that a request stands for; None: nothing that we may be asked for."""
    name = name_behind(conf, path, port)
    if name is None:
        return None
    try:
        reference = parse_reference(f"{name}@{tag_or_digest}" if ":" in tag_or_digest else f"{name}:{tag_or_digest}")
    except BadReference:
        return None
    found = conf.find(reference.name)
    ours = addresses(port)
    asked = found is not None and any(mirror.location.partition("/")[0] in ours for mirror in found.mirrors)
    return reference if reference.transport is Transport.DOCKER and reference.name == name and asked else None
