"""Certificates for registries: containers-certs.d(5), and Docker's directory of the same layout.

In ``certs.d/HOST[:PORT]/`` every ``*.crt`` is an authority to trust beside the system's, every ``*.cert`` with its ``*.key``
a certificate to identify ourselves with. Only the first directory that exists counts, as in containers/image.
"""

from __future__ import annotations

from pathlib import Path

from als.errors import ConfigError
from als.registry.endpoint import ClientCertificate, Tls
from als.registry.environment import Environment


def certificate_directories(environment: Environment, host: str) -> tuple[Path, ...]:
    """Where the certificates for a host may be, the most important first."""
    return (
        environment.home / ".config/containers/certs.d" / host,
        environment.system("/etc/containers/certs.d") / host,
        environment.system("/etc/docker/certs.d") / host,
    )


def load_tls(environment: Environment, host: str) -> Tls:
    """Read what is configured for a host; an empty `Tls` where nothing is.

    :raises ConfigError: a file cannot be read, or a certificate lacks its key.
    """
    for directory in certificate_directories(environment, host):
        if directory.is_dir():
            return _load_directory(directory)
    return Tls()


def _load_directory(directory: Path) -> Tls:
    authorities: list[str] = []
    pairs: list[ClientCertificate] = []
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(directory)) from error
    for path in paths:
        if path.suffix == ".crt":
            authorities.append(_read(path))
        elif path.suffix == ".cert":
            key = path.with_suffix(".key")
            if not key.exists():
                hint = "authorities have the suffix .crt"
                raise ConfigError(f"the client certificate lacks its key {key.name}", where=str(path), hint=hint)
            pairs.append(ClientCertificate(_read(path), _read(key)))
        elif path.suffix == ".key" and not path.with_suffix(".cert").exists():
            raise ConfigError("the key lacks its certificate", where=str(path))
    return Tls(tuple(authorities), tuple(pairs))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        # Without the error's own text, which may quote a key's bytes.
        raise ConfigError(f"cannot be read ({type(error).__name__})", where=str(path)) from None
