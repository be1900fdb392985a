"""registries.conf: what is asked, in which order; and what names mean."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from als.errors import BadReference, ConfigError, RegistryDenied
from als.model.reference import parse_reference
from als.registry.conf import conf_files, load_conf, match_prefix, parse_conf
from als.registry.environment import Environment

DIGEST = "sha256:" + "a" * 64
CONF = """
unqualified-search-registries = ["registry.example", "localhost:5000"]
credential-helpers = ["containers-auth.json", "vault"]

[aliases]
"tool" = "quay.example/ours/tool"
"gone" = ""

[[registry]]
location = "registry.example/"
[[registry.mirror]]
location = "all.example/r"
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
insecure = true
[[registry.mirror]]
location = "tags.example"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "registry.example/team"
location = "other.example/moved/team"

[[registry]]
prefix = "*.corp.example"
insecure = true
[[registry.mirror]]
location = "mirror.example:5000"

[[registry]]
location = "old.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "new.example"

[[registry]]
location = "blocked.example"
blocked = true

[[registry]]
location = "cut.example"
blocked = true
[[registry.mirror]]
location = "inside.example/cut"
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("registry.example/a:1", ["all.example/r/a", "tags.example/a", "registry.example/a"]),
        (f"registry.example/a@{DIGEST}", ["all.example/r/a", "digests.example/a!", "registry.example/a"]),
        ("registry.example/team/app", ["other.example/moved/team/app"]),
        ("registry.example/teams/app", ["all.example/r/teams/app", "tags.example/teams/app", "registry.example/teams/app"]),
        ("a.b.corp.example/x/y:1", ["mirror.example:5000/x/y", "a.b.corp.example/x/y!"]),
        ("corp.example/x", ["corp.example/x"]),
        ("old.example/a:1", ["old.example/a"]),
        (f"old.example/a@{DIGEST}", ["new.example/a", "old.example/a"]),
        ("cut.example/a/b", ["inside.example/cut/a/b"]),
        ("unknown.example/a", ["unknown.example/a"]),
        ("debian", ["docker.io/library/debian"]),
    ],
)
def test_endpoints(text: str, expected: list[str]) -> None:
    """The expectations are those of containers/image's sysregistriesv2; "!" marks insecure ones."""
    conf = parse_conf(CONF, "test")
    found = [endpoint.name + "!" * endpoint.insecure for endpoint in conf.endpoints(parse_reference(text))]
    assert found == expected


def test_location_that_makes_no_name() -> None:
    """A prefix matches a host with a port as well; what follows the prefix then begins with that port."""
    with pytest.raises(ConfigError, match=r"mirror\.example:5000:443/x"):
        parse_conf(CONF, "test").endpoints(parse_reference("a.corp.example:443/x"))


def test_host_of_docker_io() -> None:
    (endpoint,) = parse_conf("", "test").endpoints(parse_reference("debian"))
    assert (endpoint.host, endpoint.domain, endpoint.repository) == ("registry-1.docker.io", "docker.io", "library/debian")


def test_blocked() -> None:
    with pytest.raises(RegistryDenied, match="blocked"):
        parse_conf(CONF, "test").endpoints(parse_reference("blocked.example/a"))


@pytest.mark.parametrize(
    ("name", "prefix", "covered"),
    [
        ("example.com/a", "example.com", 11),
        ("example.com:5000/a", "example.com", 11),
        ("example.com", "example.com", 11),
        ("example.com/ab", "example.com/a", None),
        ("example.com/a@sha256:0", "example.com/a", 13),
        ("example.comm/a", "example.com", None),
        ("a.example.com/b", "*.example.com", 13),
        ("example.com/b", "*.example.com", None),
        ("other.io/a.example.com", "*.example.com", None),
        ("a.example.com.evil/b", "*.example.com", None),
    ],
)
def test_prefixes(name: str, prefix: str, covered: int | None) -> None:
    assert match_prefix(name, prefix) == covered


def test_candidates() -> None:
    conf = parse_conf(CONF, "test")

    def names(text: str) -> list[str]:
        return [str(candidate) for candidate in conf.candidates(text)]

    assert names("tool:2") == ["quay.example/ours/tool:2"]
    assert names(f"tool@{DIGEST}") == [f"quay.example/ours/tool@{DIGEST}"]
    assert names("app") == ["registry.example/app:latest", "localhost:5000/app:latest"]
    assert names("team/app:1") == ["registry.example/team/app:1", "localhost:5000/team/app:1"]
    assert names("quay.example/app") == ["quay.example/app:latest"]
    assert names("docker://app") == ["docker.io/library/app:latest"]
    assert names("oci:dir:tag") == ["oci:dir:tag"]
    with pytest.raises(BadReference, match=r"docker\.io/library/app:latest"):
        parse_conf("", "test").candidates("app")


@pytest.mark.parametrize(
    "text",
    [
        "[[registry",
        "registry = 5",
        "[[registry]]\ninsecure = true",
        "[[registry]]\nprefix = 'a.b'",
        "[[registry]]\nlocation = 'https://a.b'",
        "[[registry]]\nlocation = 5",
        "[[registry]]\nlocation = 'a.b'\nblocked = 'yes'",
        "[[registry]]\nprefix = '*.a.b/c'\nlocation = 'x.y'",
        "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\ninsecure = true",
        "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = 'm.n'\npull-from-mirror = 'never'",
        "[[registry]]\nlocation = 'a.b'\nmirror-by-digest-only = true\n"
        "[[registry.mirror]]\nlocation = 'm'\npull-from-mirror = 'all'",
        "unqualified-search-registries = [5]",
        "unqualified-search-registries = ['a']\n[registries.search]\nregistries = ['b']",
        "aliases = 5",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(ConfigError, match="the-file"):
        parse_conf(text, "the-file")


def test_version_1() -> None:
    lists = {"search": "a.b", "insecure": "c.d", "block": "e.f"}
    text = "\n".join(f"[registries.{name}]\nregistries = ['{host}']" for name, host in lists.items())
    conf = parse_conf(text, "test")
    assert conf.search == ("a.b",)
    assert conf.endpoints(parse_reference("c.d/x"))[0].insecure
    with pytest.raises(RegistryDenied):
        conf.endpoints(parse_reference("e.f/x"))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_files(environment: Environment) -> None:
    """Which files count, and that a drop-in wins over what comes before it, registry by registry."""
    assert conf_files(environment) == []
    assert load_conf(environment).endpoints(parse_reference("a.b/c"))[0].name == "a.b/c"
    vendor = write(environment.system("/usr/share/containers/registries.conf"), "")
    assert conf_files(environment) == [vendor]
    insecure = "[[registry]]\nlocation = '{}'\ninsecure = true\n"
    base = "unqualified-search-registries = ['base.io']\n" + insecure.format("a.b") + insecure.format("c.d")
    system = write(environment.system("/etc/containers/registries.conf"), base)
    first = write(environment.system("/etc/containers/registries.conf.d/00.conf"), "[[registry]]\nlocation = 'a.b'")
    write(environment.system("/etc/containers/registries.conf.d/readme.txt"), "[[[")
    second = write(environment.system("/etc/containers/registries.conf.d/10.conf"), "[aliases]\nx = 'y.z/x'")
    assert conf_files(environment) == [system, first, second]
    conf = load_conf(environment)
    assert conf.search == ("base.io",) and conf.aliases == {"x": "y.z/x"}
    assert not conf.endpoints(parse_reference("a.b/i"))[0].insecure
    assert conf.endpoints(parse_reference("c.d/i"))[0].insecure
    user = write(environment.home / ".config/containers/registries.conf", "")
    assert conf_files(environment) == [user]
    chosen = dataclasses.replace(environment, variables={"CONTAINERS_REGISTRIES_CONF": str(environment.root / "mine")})
    with pytest.raises(ConfigError, match="mine"):
        load_conf(chosen)
    write(environment.root / "mine", "[[registry]]\nlocation = 'c.d'")
    assert conf_files(chosen) == [environment.root / "mine", first, second]
