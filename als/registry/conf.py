"""registries.conf, version 2 (containers-registries.conf(5)): mirrors, insecure and blocked registries, short names.

The matching of prefixes follows containers/image (``pkg/sysregistriesv2``), including that a prefix ``example.com``
matches ``example.com:5000``: podman asks us for images by the name the user typed, and we have to find them where podman
would. Of the version 1 format only ``insecure``, ``block`` and ``search`` exist, and are read as podman reads them.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from als.errors import BadReference, ConfigError, RegistryDenied
from als.model.reference import Reference, Transport, is_short_name, parse_reference
from als.registry.endpoint import Endpoint
from als.registry.environment import Environment
from als.registry.table import Table

AUTH_FILES = "containers-auth.json"
"""The entry of ``credential-helpers`` that stands for the auth files."""


class PullFromMirror(enum.StrEnum):
    """For which references a mirror is asked."""

    ALL = "all"
    DIGEST_ONLY = "digest-only"
    TAG_ONLY = "tag-only"

    def allows(self, reference: Reference) -> bool:
        """Whether a mirror with this setting is asked for `reference`."""
        excluded = PullFromMirror.TAG_ONLY if reference.digest else PullFromMirror.DIGEST_ONLY
        return self is not excluded


@dataclass(frozen=True, slots=True)
class Mirror:
    """A ``[[registry.mirror]]``."""

    location: str
    insecure: bool = False
    pull: PullFromMirror = PullFromMirror.ALL


@dataclass(frozen=True, slots=True)
class Registry:
    """A ``[[registry]]``; an empty location (with a wildcard prefix) stands for the name as it is."""

    prefix: str
    location: str
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """One file's content, or that of several merged; None stands for a setting that was not given."""

    registries: Mapping[str, Registry] = field(default_factory=lambda: MappingProxyType({}))
    """By prefix."""
    search: tuple[str, ...] | None = None
    """``unqualified-search-registries``."""
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    helpers: tuple[str, ...] | None = None
    """``credential-helpers``."""

    def merged(self, other: RegistriesConf) -> RegistriesConf:
        """This configuration with a drop-in's on top."""
        return RegistriesConf(
            MappingProxyType({**self.registries, **other.registries}),
            self.search if other.search is None else other.search,
            MappingProxyType({**self.aliases, **other.aliases}),
            self.helpers if other.helpers is None else other.helpers,
        )

    def find(self, name: str) -> Registry | None:
        """The registry with the longest prefix that matches ``domain/path``, or None."""
        matching = [registry for prefix, registry in self.registries.items() if match_prefix(name, prefix) is not None]
        return max(matching, key=lambda registry: len(registry.prefix), default=None)

    def endpoints(self, reference: Reference, leave_out: Collection[str] = ()) -> tuple[Endpoint, ...]:
        """Where to ask for an image, in the order containers/image asks: mirrors first, the registry itself last.

        A blocked registry's mirrors are still asked (that is how clusters are cut off from the internet).

        :param leave_out: ``HOST:PORT`` of mirrors that are not to be asked: our own would ask us in turn.
        :raises RegistryDenied: every one is blocked.
        :raises ConfigError: a location makes no reference.
        """
        registry = self.find(reference.name)
        if registry is None:
            return (Endpoint(reference.domain, reference.path),)
        others = [mirror for mirror in registry.mirrors if mirror.location.partition("/")[0] not in leave_out]
        wanted = [mirror for mirror in others if mirror.pull.allows(reference)]
        places = [(mirror.location, mirror.insecure) for mirror in wanted]
        if not registry.blocked:
            places.append((registry.location, registry.insecure))
        result: list[Endpoint] = []
        for location, insecure in places:
            there = _rewrite(reference, registry.prefix, location)
            known = self.find(there.name)
            if known is None or not known.blocked:
                result.append(Endpoint(there.domain, there.path, insecure))
        if not result:
            raise RegistryDenied(
                f"pulling from {registry.prefix} is blocked", where=str(reference), hint="blocked = true in registries.conf"
            )
        return tuple(result)

    def candidates(self, text: str) -> tuple[Reference, ...]:
        """What a name given by a user may stand for, in the order podman tries it: an alias, or the name in each of the
        unqualified-search registries. A name with a host stands for itself.

        :raises BadReference: it is no reference, or a short name that nothing here resolves.
        """
        parsed = parse_reference(text)
        if parsed.transport is not Transport.DOCKER or not is_short_name(text):
            return (parsed,)
        name = text.partition("@")[0].partition(":")[0]
        rest = text[len(name) :]
        if name in self.aliases:
            return (parse_reference(self.aliases[name] + rest),)
        if not self.search:
            raise BadReference(
                "a short name, and registries.conf has neither an alias for it nor unqualified-search-registries",
                where=repr(text),
                hint=f"did you mean {parsed}?",
            )
        return tuple(parse_reference(f"{host}/{text}") for host in self.search)


def match_prefix(name: str, prefix: str) -> int | None:
    """How many characters of ``domain/path[:tag]`` a prefix covers, or None where it does not match."""
    if prefix.startswith("*."):
        index = name.find(prefix[1:])
        if index == -1 or "/" in name[:index]:
            return None
        end = index + len(prefix) - 1
    else:
        if not name.startswith(prefix):
            return None
        end = len(prefix)
    return end if end == len(name) or name[end] in ":/@" else None


def _rewrite(reference: Reference, prefix: str, location: str) -> Reference:
    covered = match_prefix(str(reference), prefix)
    if not location or covered is None:
        return reference
    text = location + str(reference)[covered:]
    try:
        return parse_reference(text)
    except BadReference as error:
        raise ConfigError(f"the location {location!r} makes {text!r} of it", where=str(reference)) from error


def parse_conf(text: str, where: str) -> RegistriesConf:
    """Read the text of one registries.conf.

    :param where: the file's name, for errors.
    :raises ConfigError: it is not TOML, or means nothing.
    """
    try:
        table = Table(tomllib.loads(text), where)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", where=where) from error
    if "registries" in table:
        if "registry" in table or "unqualified-search-registries" in table:
            raise ConfigError("mixes the formats of version 1 and 2", where=where)
        return _version1(table.table("registries"))
    registries: dict[str, Registry] = {}
    for entry in table.tables("registry"):
        registry = _registry(entry)
        registries.setdefault(registry.prefix, registry)
    return RegistriesConf(
        MappingProxyType(registries),
        _hosts(table, "unqualified-search-registries"),
        MappingProxyType({name: target for name, target in table.table("aliases").text_map().items() if target}),
        table.texts("credential-helpers") if "credential-helpers" in table else None,
    )


def _registry(entry: Table) -> Registry:
    location = _location(entry, entry.text("location"))
    prefix = _location(entry, entry.text("prefix")) or location
    if not prefix:
        raise ConfigError("a registry has neither prefix nor location", where=entry.where)
    if prefix.startswith("*.") and any(character in prefix for character in "/@:"):
        raise ConfigError(f"the prefix {prefix!r} is not of the form *.example.com", where=entry.where)
    if not location and not prefix.startswith("*."):
        raise ConfigError(f"the registry {prefix!r} has no location", where=entry.where)
    by_digest = entry.flag("mirror-by-digest-only")
    mirrors = tuple(_mirror(mirror, by_digest) for mirror in entry.tables("mirror"))
    return Registry(prefix, location, entry.flag("insecure"), entry.flag("blocked"), mirrors)


def _mirror(entry: Table, by_digest: bool) -> Mirror:
    location = _location(entry, entry.text("location"))
    if not location:
        raise ConfigError("a mirror has no location", where=entry.where)
    text = entry.text("pull-from-mirror")
    if by_digest and text:
        raise ConfigError(f"the mirror {location!r} sets pull-from-mirror beside mirror-by-digest-only", where=entry.where)
    if text not in ("", *PullFromMirror):
        raise ConfigError(f"pull-from-mirror = {text!r} of {location!r} means nothing", where=entry.where)
    pull = PullFromMirror(text) if text else PullFromMirror.DIGEST_ONLY if by_digest else PullFromMirror.ALL
    return Mirror(location, entry.flag("insecure"), pull)


def _version1(table: Table) -> RegistriesConf:
    search, insecure, block = (_hosts(table.table(name), "registries") for name in ("search", "insecure", "block"))
    registries = {
        host: Registry(host, host, host in (insecure or ()), host in (block or ()))
        for host in (*(insecure or ()), *(block or ()))
    }
    return RegistriesConf(MappingProxyType(registries), search)


def _hosts(table: Table, key: str) -> tuple[str, ...] | None:
    return tuple(_location(table, host) for host in table.texts(key)) if key in table else None


def _location(table: Table, text: str) -> str:
    if text.startswith(("http://", "https://")):
        hint = "write HOST[:PORT][/PATH] and, for HTTP, insecure = true"
        raise ConfigError(f"{text!r} is a URL", where=table.where, hint=hint)
    return text.rstrip("/")


def conf_files(environment: Environment) -> list[Path]:
    """The files that make up the configuration, those that count more later; only ones that exist, except for one named by
    the environment."""
    chosen = environment.get("CONTAINERS_REGISTRIES_CONF") or environment.get("REGISTRIES_CONFIG_PATH")
    user = environment.home / ".config/containers"
    system = environment.system("/etc/containers")
    vendor = environment.system("/usr/share/containers")
    if chosen:
        files = [Path(chosen)]
    else:
        folders = (user, system, vendor)
        files = [path for folder in folders if (path := folder / "registries.conf").is_file()][:1]
    own_directory = environment.get("CONTAINERS_REGISTRIES_CONF_DIR")
    if own_directory:
        directories = [Path(own_directory)]
    elif files and files[0].parent == user:
        directories = [user / "registries.conf.d"]
    else:
        directories = [system / "registries.conf.d", user / "registries.conf.d"]
    for directory in directories:
        files += sorted(path for path in directory.glob("*.conf") if path.is_file())
    return files


def load_conf(environment: Environment) -> RegistriesConf:
    """Read the configuration that podman would use in this environment; an empty one where there is no file.

    :raises ConfigError: a file cannot be read or understood.
    """
    result = RegistriesConf()
    for path in conf_files(environment):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
        result = result.merged(parse_conf(text, str(path)))
    return result
