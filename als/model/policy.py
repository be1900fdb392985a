"""policy.json (containers-policy.json(5)): which images a machine's administrator lets its users run.

podman and CRI-O ask it when they pull, and not again when an image is run from an additional image store. So an image that
als lists there must be one that they would have pulled. als checks no signatures; what the policy wants signed is therefore
served as layers only, and the client's own pull verifies before it uses them.

The rules are those of containers/image: ``signature/policy_config.go`` for the syntax, ``policy_eval.go`` for the choice of
the requirements, ``docker/policyconfiguration/naming.go`` and ``oci/internal/oci_util.go`` for the scopes. Like there, only
the most specific scope counts, and whatever is not understood spoils the whole file. What follows the type of a requirement for
signatures is not looked at: it makes no difference here, and newer versions add fields.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from als.errors import BadImage, ConfigError, PolicyDenied
from als.model.document import Fields, parse_object
from als.model.reference import Reference, Transport

ACCEPT = "insecureAcceptAnything"
REJECT = "reject"
_WITHOUT_FIELDS = frozenset({ACCEPT, REJECT})
_SIGNED = frozenset({"signedBy", "signedBaseLayer", "sigstoreSigned"})
_LENGTH_MAX = 8 << 20

Requirements = tuple[str, ...]
"""The types of all requirements of a scope; an image has to meet every one."""


class Listing(enum.IntEnum):
    """How far an image may be shown to clients; the larger, the stricter."""

    LISTED = 0
    """As an image of the image store, which they run as it is."""
    LAYERS_ONLY = 1
    """Its layers; the client itself pulls manifest and config, and checks what has to be checked."""
    REJECTED = 2
    """Not at all."""


@dataclass(frozen=True, slots=True)
class ListingVerdict:
    """What a policy means for an image, and why."""

    listing: Listing
    policy: str
    """The file that decided."""
    reason: str
    """For people: the scope and what it demands."""

    def check(self, reference: Reference) -> None:
        """Refuse what is rejected.

        :raises PolicyDenied: the image must not be used on this machine.
        """
        if self.listing is Listing.REJECTED:
            hint = f"see containers-policy.json(5) and {self.policy}"
            raise PolicyDenied(f"rejected by {self.policy}: {self.reason}", where=str(reference), hint=hint)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy.json."""

    source: str
    """The file's name."""
    default: Requirements
    transports: Mapping[str, Mapping[str, Requirements]]
    """By transport and scope; the scope ``""`` is a transport's own default."""

    def verdict(self, reference: Reference, path: str = "") -> ListingVerdict:
        """What it says of an image.

        :param path: of an OCI layout or archive: where it lies, absolute and without symlinks.
        """
        scopes = self.transports.get(reference.transport.value, {})
        for scope in (*scopes_of(reference, path), ""):
            if scope in scopes:
                name = f"the scope {scope!r} of {reference.transport}" if scope else f"the default of {reference.transport}"
                return self._judge(scopes[scope], name)
        return self._judge(self.default, "the default")

    def _judge(self, requirements: Requirements, scope: str) -> ListingVerdict:
        if REJECT in requirements:
            listing = Listing.REJECTED
        else:
            listing = Listing.LISTED if set(requirements) == {ACCEPT} else Listing.LAYERS_ONLY
        return ListingVerdict(listing, self.source, f"{scope} is {', '.join(requirements)}")


def scopes_of(reference: Reference, path: str = "") -> Iterator[str]:
    """Where a policy may speak of an image, the most specific scope first, without the transport's default.

    :param path: as for :meth:`Policy.verdict`.
    """
    if reference.transport is not Transport.DOCKER:
        while path.strip("/"):
            yield path
            path = path.rpartition("/")[0]
        return
    yield str(reference)
    name = reference.name
    yield name
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
    # Wildcards are of the host without its port, and reach any depth: *.example.com, *.com.
    host = name.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        yield f"*.{host}"


def parse_policy(data: bytes, source: str) -> Policy:
    """Read a policy.json.

    :param source: the file's name.
    :raises ConfigError: containers/image would refuse it too, and every pull with it.
    """
    try:
        document = parse_object(data, what=source, limit=_LENGTH_MAX)
        _only(document, ("default", "transports"), source)
        transports = document.optional_child("transports")
        return Policy(source, _requirements(document, "default", source), _transports(transports, source))
    except BadImage as error:
        raise ConfigError(error.what, where=error.where, hint="see containers-policy.json(5)") from error


def _transports(fields: Fields | None, source: str) -> Mapping[str, Mapping[str, Requirements]]:
    found: dict[str, Mapping[str, Requirements]] = {}
    for name in fields.names() if fields is not None else ():
        scopes = fields.child(name) if fields is not None else None
        if scopes is None:
            continue
        requirements = {scope: _requirements(scopes, scope, source) for scope in scopes.names()}
        if name in (Transport.OCI, Transport.OCI_ARCHIVE):
            _check_paths(requirements, source)
        found[name] = MappingProxyType(requirements)
    return MappingProxyType(found)


def _requirements(fields: Fields, name: str, source: str) -> Requirements:
    types = []
    for requirement in fields.children(name):
        kind = requirement.text("type")
        if kind in _WITHOUT_FIELDS:
            _only(requirement, ("type",), source)
        elif kind not in _SIGNED:
            raise ConfigError(f"the requirement {kind[:100]!r} of {name!r} is unknown", where=source)
        types.append(kind)
    if not types:
        raise ConfigError(f"{name!r} has no requirements", where=source, hint=f'"no restriction" is {{"type": "{ACCEPT}"}}')
    return tuple(types)


def _only(fields: Fields, names: Sequence[str], source: str) -> None:
    unknown = [name for name in fields.names() if name not in names]
    if unknown:
        raise ConfigError(f"the field {unknown[0][:100]!r} is unknown", where=source, hint="see containers-policy.json(5)")


def _check_paths(scopes: Mapping[str, Requirements], source: str) -> None:
    for scope in filter(None, scopes):
        if not scope.startswith("/") or scope == "/" or any(part in ("", ".", "..") for part in scope[1:].split("/")):
            hint = 'an absolute path without a slash at its end; "" for all'
            raise ConfigError(f"the scope {scope[:200]!r} names no folder", where=source, hint=hint)
