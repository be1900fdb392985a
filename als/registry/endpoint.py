"""Where a repository is to be asked for, and with what: plain data that can be handed to another process.

Certificates and keys travel as PEM text, not as paths, because the process that uses them may not read those files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NETWORK_HOSTS = {"docker.io": "registry-1.docker.io"}


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves who we are to one registry: a password, or an OAuth2 refresh token (`identity_token`).

    Neither is shown by ``repr()``, so that no log or traceback holds it.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def to_json(self) -> dict[str, Any]:
        """With its secrets: for a pipe to a process of ours, never for a file or a log."""
        return {"username": self.username, "password": self.password, "identity_token": self.identity_token}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Credential:
        """The reverse of `to_json`."""
        return cls(data["username"], data["password"], data["identity_token"])


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate (with its chain) and its private key, PEM."""

    certificate: str = field(repr=False)
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to trust beyond the system's authorities, and who we are; all PEM."""

    authorities: tuple[str, ...] = field(default=(), repr=False)
    client_certificates: tuple[ClientCertificate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """With its private keys: for a pipe to a process of ours only."""
        return {
            "authorities": list(self.authorities),
            "client_certificates": [[pair.certificate, pair.key] for pair in self.client_certificates],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tls:
        """The reverse of `to_json`."""
        pairs = tuple(ClientCertificate(certificate, key) for certificate, key in data["client_certificates"])
        return cls(tuple(data["authorities"]), pairs)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place a repository may be pulled from: the registry itself or a mirror."""

    domain: str
    """Host and port as configured and shown; see `host` for the one on the network."""
    repository: str
    """The path there, without the host."""
    insecure: bool = False
    """Certificates are not checked, and plain HTTP is used where the host does not speak TLS."""
    credential: Credential | None = None
    tls: Tls = Tls()

    @property
    def host(self) -> str:
        """Host and port to connect to."""
        return _NETWORK_HOSTS.get(self.domain, self.domain)

    @property
    def name(self) -> str:
        """``domain/repository``: what credentials are looked up by."""
        return f"{self.domain}/{self.repository}"

    def to_json(self) -> dict[str, Any]:
        """With its secrets: for a pipe to a process of ours only."""
        return {
            "domain": self.domain,
            "repository": self.repository,
            "insecure": self.insecure,
            "credential": self.credential and self.credential.to_json(),
            "tls": self.tls.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Endpoint:
        """The reverse of `to_json`."""
        credential = data["credential"]
        return cls(
            data["domain"],
            data["repository"],
            data["insecure"],
            credential and Credential.from_json(credential),
            Tls.from_json(data["tls"]),
        )
