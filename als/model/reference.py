"""References: the texts that users and container engines name images by.

The grammar is that of containers/image (``docker/reference/regexp.go`` and ``normalize.go``), including what docker.io
implies, because the text that podman hands to an Additional Layer Store is the result of that grammar. One thing is
accepted beyond it: IPv6 literals in brackets as hosts, as newer versions of distribution/reference do. One is refused that it
takes by accident: a host with an underscore, for which upstream returns a name without a host.

The grammar is applied piece by piece instead of with one expression: the errors can say which piece is wrong, and no
input makes the matcher backtrack (upstream relies on a regular expression engine that never does).
"""

from __future__ import annotations

import dataclasses
import enum
import re
from dataclasses import dataclass

from als.errors import BadImage, BadReference
from als.model.digest import Digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
NAME_LENGTH_MAX = 255
"""Characters of ``domain/path``; containers/image's ``NameTotalLengthMax``."""

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_TEXT_LENGTH_MAX = 8192
_PATH_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_DOMAIN_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_OCI_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_OCI_NAME = re.compile(rf"{_OCI_COMPONENT}(?:/{_OCI_COMPONENT})*|@[0-9]{{1,9}}")
_OTHER_TRANSPORTS = ("containers-storage:", "dir:", "docker-archive:", "docker-daemon:", "ostree:", "sif:", "tarball:")


class Transport(enum.StrEnum):
    """Where an image is read from; the values are containers/image's names."""

    DOCKER = "docker"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"


@dataclass(frozen=True, slots=True)
class Reference:
    """A checked and normalised reference; ``str()`` gives the canonical text, which parses to an equal object.

    Of an image in a registry, exactly one of `tag` and `digest` is set. Of an image in an OCI layout or archive, `path` is
    the directory or file as written and `tag` its name in there, or ``@N`` for the N-th manifest of its index, or None for
    the only one.
    """

    transport: Transport
    path: str
    domain: str = ""
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """``domain/path`` of an image in a registry; the path of a local one."""
        return f"{self.domain}/{self.path}" if self.domain else self.path

    @property
    def tag_or_digest(self) -> str:
        """What follows the name; empty where a local reference names no image."""
        return str(self.digest) if self.digest else self.tag or ""

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository's image with this digest."""
        return dataclasses.replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        if self.transport is Transport.DOCKER:
            return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"
        return f"{self.transport}:{self.path}" + (f":{self.tag}" if self.tag is not None else "")


def parse_reference(text: str) -> Reference:
    """Read a reference in any form that containers/image accepts: ``[docker://]NAME[:TAG][@DIGEST]``,
    ``oci:DIR[:IMAGE]``, ``oci-archive:FILE[:IMAGE]``.

    Names without a host are completed as docker does it (``docker.io/library/``); a tag beside a digest is dropped; where
    both are missing the tag is ``latest``.

    :raises als.errors.BadReference: it is none of these.
    """
    if not text:
        raise BadReference("an empty text names no image")
    if len(text) > _TEXT_LENGTH_MAX:
        raise BadReference("too long to name an image", where=repr(text[:160]))
    for transport in (Transport.OCI, Transport.OCI_ARCHIVE):
        if text.startswith(f"{transport}:"):
            return _parse_local(transport, text)
    for prefix in _OTHER_TRANSPORTS:
        if text.startswith(prefix) and "/" in text:
            raise BadReference(f"the transport {prefix} is not supported", where=repr(text), hint="copy it to an oci: layout")
    return _parse_docker(text, text.removeprefix("docker://"))


def is_tag(text: str) -> bool:
    """Whether `text` can be a tag of an image in a registry."""
    return _TAG.fullmatch(text) is not None


def is_short_name(text: str) -> bool:
    """Whether `text` names a repository without the host it is on, so that registries.conf decides where it is."""
    if text.startswith(("docker://", "oci:", "oci-archive:")):
        return False
    first, slash, _ = text.partition("/")
    return not slash or not _looks_like_host(first)


def _looks_like_host(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost"


def _parse_local(transport: Transport, text: str) -> Reference:
    path, colon, image = text.removeprefix(f"{transport}:").partition(":")
    if not path or "\0" in path:
        raise BadReference("names no path", where=repr(text), hint=f"write {transport}:PATH or {transport}:PATH:IMAGE")
    if image and not _OCI_NAME.fullmatch(image):
        raise BadReference(f"{image!r} cannot name an image in it", where=repr(text))
    return Reference(transport, path, tag=image if colon and image else None)


def _parse_docker(text: str, rest: str) -> Reference:
    if _IDENTIFIER.fullmatch(rest):
        raise BadReference("64 hexadecimal digits name no repository", where=repr(text), hint="write NAME@sha256:DIGEST")
    name, at, digest_text = rest.partition("@")
    domain, remainder = _split_domain(name)
    path, colon, tag = remainder.partition(":")
    _check_path(text, path)
    if not _DOMAIN.fullmatch(domain):
        raise BadReference(f"{domain!r} is not a host", where=repr(text), hint="write HOST[:PORT]/NAME[:TAG]")
    if len(domain) + 1 + len(path) > NAME_LENGTH_MAX:
        raise BadReference(f"its name has more than {NAME_LENGTH_MAX} characters", where=repr(text[:300]))
    if colon and not _TAG.fullmatch(tag):
        raise BadReference(f"{tag!r} is not a tag", where=repr(text), hint="letters, digits, _ . - and at most 128 of them")
    if not at:
        return Reference(Transport.DOCKER, path, domain, tag=tag if colon else DEFAULT_TAG)
    try:
        digest = Digest.parse(digest_text)
    except BadImage as error:
        raise BadReference(f"{digest_text!r} is not a digest", where=repr(text), hint="write NAME@sha256:HEX") from error
    return Reference(Transport.DOCKER, path, domain, digest=digest)


def _split_domain(name: str) -> tuple[str, str]:
    """The host and what follows it, with docker.io's defaults filled in."""
    first, slash, remainder = name.partition("/")
    if not slash or not _looks_like_host(first):
        first, remainder = DEFAULT_DOMAIN, name
    if first == _LEGACY_DOMAIN:
        first = DEFAULT_DOMAIN
    if first == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return first, remainder


def _check_path(text: str, path: str) -> None:
    if all(_PATH_COMPONENT.fullmatch(component) for component in path.split("/")):
        return
    if path != path.lower():
        lower = path.lower() if path in text else path.lower().removeprefix(_OFFICIAL)
        raise BadReference("repository names are lower case", where=repr(text), hint=f"did you mean {lower!r}?")
    if "://" in text.removeprefix("docker://"):
        raise BadReference("a URL names no image", where=repr(text), hint="write HOST[:PORT]/NAME[:TAG]")
    if path.removeprefix(_OFFICIAL).strip("/") == "":
        raise BadReference("the repository's name is missing", where=repr(text), hint="write HOST[:PORT]/NAME[:TAG]")
    raise BadReference("not the name of an image", where=repr(text), hint="write [HOST[:PORT]/]NAME[:TAG][@DIGEST]")
