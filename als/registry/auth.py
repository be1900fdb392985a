"""Credentials as podman finds them: containers-auth.json(5), Docker's config.json, and credential helpers.

The order of files and keys follows containers/image (``pkg/docker/config``). Beyond it, Docker's ``credsStore`` is asked
where a file's own entries have nothing, and where ``XDG_RUNTIME_DIR`` is not set (a daemon) the file that a login session
of the same user writes is read too.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from als.errors import ConfigError
from als.registry.conf import AUTH_FILES
from als.registry.endpoint import Credential
from als.registry.environment import Environment
from als.registry.table import Table

HELPER_SECONDS = 30.0
"""How long a credential helper may take (some talk to a cloud)."""
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class AuthFile:
    """One file's content. `entries` are by repository, namespace, host or (older) URL, as the file has them."""

    entries: Mapping[str, Credential] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)
    """``credHelpers``: the helper for a host."""
    store: str = ""
    """``credsStore``: the helper for every host."""

    def find(self, name: str) -> Credential | None:
        """The entry for ``domain/path``: the most specific one; a URL counts for its host."""
        key = name
        while key:
            if key in self.entries:
                return self.entries[key]
            key = key.rpartition("/")[0]
        host = _normal_host(name.partition("/")[0])
        return next((entry for key, entry in self.entries.items() if _normal_key(key) == host), None)


def _normal_key(key: str) -> str:
    stripped = key.removeprefix("https://").removeprefix("http://")
    return _normal_host(stripped if stripped == key else stripped.partition("/")[0])


def _normal_host(host: str) -> str:
    return "docker.io" if host in _HUB_HOSTS else host


def parse_auth(data: bytes, where: str, *, legacy: bool = False) -> AuthFile:
    """Read an auth file; `legacy` is the format of ``.dockercfg``, whose entries are at the top.

    :raises ConfigError: it is malformed. No error shows any of it.
    """
    try:
        table = Table(json.loads(data), where)
    except (ValueError, RecursionError):
        # Without "from": the original error quotes the document.
        raise ConfigError("not a JSON document", where=where) from None
    auths = table if legacy else table.table("auths")
    decoded = {key: _decode(auths.table(key), key) for key in auths.values}
    return AuthFile(
        {key: entry for key, entry in decoded.items() if entry is not None},
        {} if legacy else table.table("credHelpers").text_map(),
        "" if legacy else table.text("credsStore"),
    )


def _decode(entry: Table, key: str) -> Credential | None:
    """The credential in an entry, or None where it is empty (Docker writes such markers beside a credsStore)."""
    try:
        user, colon, password = base64.b64decode(entry.text("auth"), validate=True).decode().partition(":")
    except ValueError:
        raise ConfigError(f"the 'auth' of {key!r} is not base64", where=entry.where) from None
    token = entry.text("identitytoken")
    if not colon and not token:
        return None
    return Credential(user, password.strip("\0"), token)


def auth_files(environment: Environment) -> list[tuple[Path, bool]]:
    """The files to look in, in order, each with whether it has the legacy format. They need not exist."""
    chosen = environment.get("REGISTRY_AUTH_FILE")
    if chosen:
        return [(Path(chosen), False)]
    home = environment.home
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        files = [Path(runtime) / "containers/auth.json"]
    else:
        files = [
            environment.system(f"/run/containers/{environment.uid}/auth.json"),
            environment.system(f"/run/user/{environment.uid}/containers/auth.json"),
        ]
    config = environment.get("XDG_CONFIG_HOME")
    files.append((Path(config) if config else home / ".config") / "containers/auth.json")
    docker = environment.get("DOCKER_CONFIG")
    files.append((Path(docker) if docker else home / ".docker") / "config.json")
    return [*((path, False) for path in files), (home / ".dockercfg", True)]


def _read_files(environment: Environment) -> Iterator[AuthFile]:
    must_exist = bool(environment.get("REGISTRY_AUTH_FILE"))
    for path, legacy in auth_files(environment):
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if must_exist:
                raise ConfigError("does not exist", where=str(path), hint="REGISTRY_AUTH_FILE names it") from error
            continue
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
        yield parse_auth(data, str(path), legacy=legacy)


def find_credential(name: str, environment: Environment, helpers: tuple[str, ...] = (AUTH_FILES,)) -> Credential | None:
    """The credential for ``domain/path``, or None: anonymous.

    :param helpers: ``credential-helpers`` of registries.conf.
    :raises ConfigError: a file is malformed or a helper fails.
    """
    host = name.partition("/")[0]
    for helper in helpers:
        if helper != AUTH_FILES:
            found = ask_helper(helper, host, environment)
        else:
            found = next(filter(None, (_look_up(file, name, environment) for file in _read_files(environment))), None)
        if found is not None:
            return found
    return None


def _look_up(file: AuthFile, name: str, environment: Environment) -> Credential | None:
    host = name.partition("/")[0]
    if file.helpers.get(host):
        return ask_helper(file.helpers[host], host, environment)
    entry = file.find(name)
    if entry is None and file.store:
        return ask_helper(file.store, _HUB_KEY if host in _HUB_HOSTS else host, environment)
    return entry


def ask_helper(helper: str, server: str, environment: Environment) -> Credential | None:
    """Ask ``docker-credential-HELPER get`` (protocol: docker-credential-helpers' README) for a server's credential.

    :raises ConfigError: the helper is missing, fails, or takes more than `HELPER_SECONDS`.
    """
    program = f"docker-credential-{helper}"
    if "/" in helper:
        raise ConfigError(f"{helper!r} is not the name of a credential helper", where=server)
    try:
        process = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=HELPER_SECONDS,
            env=dict(environment.variables),
            check=False,
        )
    except subprocess.TimeoutExpired:
        # Without "from": the original error holds what the helper has written so far.
        raise ConfigError(f"{program} took more than {HELPER_SECONDS:.0f} s", where=server) from None
    except OSError as error:
        raise ConfigError(f"{program} cannot be run: {error.strerror}", where=server) from error
    if process.returncode != 0:
        message = process.stdout.decode(errors="replace").strip()
        if "credentials not found" in message:
            return None
        raise ConfigError(f"{program} failed with status {process.returncode}: {message[:200]}", where=server)
    return _parse_helper(process.stdout, program)


def _parse_helper(data: bytes, program: str) -> Credential:
    try:
        table = Table(json.loads(data), program)
    except (ValueError, RecursionError):
        raise ConfigError("its answer is not JSON", where=program) from None
    user, secret = table.text("Username"), table.text("Secret")
    return Credential(identity_token=secret) if user == "<token>" else Credential(user, secret)
