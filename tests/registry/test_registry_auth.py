"""Credentials and certificates: which file, which entry; and that no secret shows."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from als.errors import ConfigError
from als.registry import auth
from als.registry.auth import ask_helper, auth_files, find_credential, parse_auth
from als.registry.certs import load_tls
from als.registry.endpoint import ClientCertificate, Credential, Endpoint, Tls
from als.registry.environment import Environment


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def entry(user: str) -> dict[str, str]:
    return {"auth": encode(f"{user}:pass:word")}


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("a.io/team/app", "app"),
        ("a.io/team/other", "team"),
        ("a.io/teams", "host"),
        ("a.io", "host"),
        ("b.io:5000/x", "port"),
        ("b.io/x", None),
        ("c.io/deep/down", "url"),
        ("docker.io/library/debian", "hub"),
        ("empty.io/x", None),
    ],
)
def test_most_specific_entry(name: str, user: str | None) -> None:
    auths: dict[str, object] = {
        "a.io": entry("host"),
        "a.io/team": entry("team"),
        "a.io/team/app": entry("app"),
        "b.io:5000": entry("port"),
        "https://c.io/v1/": entry("url"),
        "https://index.docker.io/v1/": entry("hub"),
        "empty.io": {},
    }
    found = parse_auth(json.dumps({"auths": auths}).encode(), "test").find(name)
    assert (found.username if found else None) == user
    assert found is None or found.password == "pass:word"


def test_order_of_files(environment: Environment) -> None:
    """Each file is looked at once those before it have nothing."""
    paths = [path for path, _ in auth_files(environment)]
    for position, path in reversed(list(enumerate(paths))):
        content = {"a.io": entry(f"user{position}")}
        write(path, content if path.name == ".dockercfg" else {"auths": content})
        found = find_credential("a.io/x", environment)
        assert found is not None and found.username == f"user{position}"
    assert [str(path.relative_to(environment.root)) for path in paths] == [
        "run/containers/0/auth.json",
        "run/user/0/containers/auth.json",
        "home/.config/containers/auth.json",
        "home/.docker/config.json",
        "home/.dockercfg",
    ]
    session = dataclasses.replace(environment, variables={"XDG_RUNTIME_DIR": "/run/user/7", "DOCKER_CONFIG": "/d"})
    assert auth_files(session)[0][0] == Path("/run/user/7/containers/auth.json")
    assert auth_files(session)[2][0] == Path("/d/config.json")


def test_file_named_by_the_environment(environment: Environment) -> None:
    write(environment.root / "run/containers/0/auth.json", {"auths": {"a.io": entry("other")}})
    chosen = dataclasses.replace(environment, variables={"REGISTRY_AUTH_FILE": str(environment.root / "mine.json")})
    with pytest.raises(ConfigError, match=r"mine\.json"):
        find_credential("a.io/x", chosen)
    write(environment.root / "mine.json", {"auths": {"b.io": {"identitytoken": "tok", "auth": encode("u:")}}})
    assert find_credential("a.io/x", chosen) is None
    assert find_credential("b.io/x", chosen) == Credential("u", "", "tok")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"auths": 5}', '{"auths": {"a.io": 5}}', '{"auths": {"a.io": {"auth": "hush-hush!"}}}']
)
def test_malformed_files_show_nothing(text: str) -> None:
    with pytest.raises(ConfigError, match="the-file") as caught:
        parse_auth(text.encode(), "the-file")
    assert "hush" not in str(caught.value) and caught.value.__cause__ is None


HELPER = """#!/bin/sh
test "$1" = get || exit 9
read -r server
case "$server" in
  a.io) echo '{"ServerURL": "a.io", "Username": "helped", "Secret": "s3cret"}' ;;
  https://index.docker.io/v1/) echo '{"Username": "<token>", "Secret": "refresh"}' ;;
  none.io) echo 'credentials not found in native keychain'; exit 1 ;;
  slow.io) exec sleep 60 ;;
  odd.io) echo 's3cret' ;;
  *) echo 'the vault is sealed'; exit 3 ;;
esac
"""


@pytest.fixture
def helper(environment: Environment) -> str:
    path = environment.root / "bin/docker-credential-vault"
    path.parent.mkdir()
    path.write_text(HELPER)
    path.chmod(0o755)
    return "vault"


def test_helpers(helper: str, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "HELPER_SECONDS", 0.3)
    assert ask_helper(helper, "a.io", environment) == Credential("helped", "s3cret")
    assert ask_helper(helper, "none.io", environment) is None
    for server, problem in (("x.io", "sealed"), ("slow.io", "more than"), ("odd.io", "not JSON")):
        with pytest.raises(ConfigError, match=problem) as caught:
            ask_helper(helper, server, environment)
        assert "s3cret" not in str(caught.value)
    for name in ("missing", "../vault"):
        with pytest.raises(ConfigError):
            ask_helper(name, "a.io", environment)


def test_where_helpers_are_named(helper: str, environment: Environment) -> None:
    """credHelpers for a host first, then the file's entries, then credsStore; or registries.conf's own list."""
    path = environment.home / ".docker/config.json"
    found = Credential("helped", "s3cret")
    write(path, {"credHelpers": {"a.io": helper}, "auths": {"a.io": entry("file")}})
    assert find_credential("a.io/x/y", environment) == found
    write(path, {"credsStore": helper, "auths": {"a.io": {}, "b.io": entry("file")}})
    assert find_credential("a.io/x", environment) == found
    assert find_credential("docker.io/library/x", environment) == Credential(identity_token="refresh")
    found_in_file = find_credential("b.io/x", environment)
    assert found_in_file is not None and found_in_file.username == "file"
    path.unlink()
    assert find_credential("a.io/x", environment) is None
    assert find_credential("a.io/x", environment, ("containers-auth.json", helper)) == found


def test_certificates(environment: Environment) -> None:
    """The first directory that exists counts alone, as in containers/image."""
    assert load_tls(environment, "a.io:5000") == Tls()
    docker = environment.system("/etc/docker/certs.d/a.io:5000")
    docker.mkdir(parents=True)
    (docker / "ca.crt").write_text("docker's")
    assert load_tls(environment, "a.io:5000") == Tls(("docker's",))
    assert load_tls(environment, "a.io") == Tls()
    ours = environment.system("/etc/containers/certs.d/a.io:5000")
    ours.mkdir(parents=True)
    for name in ("1.crt", "2.crt", "me.cert", "me.key", "README"):
        (ours / name).write_text(name)
    tls = load_tls(environment, "a.io:5000")
    assert tls == Tls(("1.crt", "2.crt"), (ClientCertificate("me.cert", "me.key"),))
    assert Tls.from_json(json.loads(json.dumps(tls.to_json()))) == tls
    (ours / "me.key").rename(ours / "you.key")
    with pytest.raises(ConfigError, match="key"):
        load_tls(environment, "a.io:5000")


def test_nothing_secret_is_shown() -> None:
    credential = Credential("user", "hush1", "hush2")
    tls = Tls(("hush3",), (ClientCertificate("hush4", "hush5"),))
    assert "hush" not in f"{Endpoint('a.io', 'x', credential=credential, tls=tls)!r} {credential} {tls}"
