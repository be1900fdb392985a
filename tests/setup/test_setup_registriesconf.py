"""registries.conf: every name of a mirrored registry reaches the mirror whole, and nothing that was set is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from als.doctor.mirrorconf import mirrored, some
from als.errors import ConfigError
from als.model.reference import parse_reference
from als.registry.conf import RegistriesConf, parse_conf
from als.setup.edits import Kind, perform, revert
from als.setup.plan import Change
from als.setup.registriesconf import HEADER, Hosts, Planned, registries_edits

MAIN = Path("/etc/containers/registries.conf")
DROP_IN = Path("/etc/containers/registries.conf.d/als.conf")
MIRROR = "127.0.0.1:4780"

BLOCKS = """\
unqualified-search-registries = ["docker.io", "quay.io"] # in this order

[[registry]]
prefix = "docker.io"
location = "docker.io" # through the proxy of the house
insecure = false

  [[registry.mirror]]
  location = "proxy.example/hub"
  pull-from-mirror = "digest-only"

# The library comes from elsewhere.
[[registry]]
prefix = "docker.io/library"
location = "lib.example/library"
insecure = true

[[registry]]
location = "other.example"
"""


def plan(files: dict[Path, str], *asked: str, found: tuple[str, ...] = (), port: int = 4780) -> Planned:
    contents = [(path, text.encode()) for path, text in files.items()]
    return registries_edits(contents, DROP_IN, port, Hosts(asked, found))


def written(files: dict[Path, str], planned: Planned) -> dict[Path, str]:
    new = {path: perform(files.get(path, HEADER.decode()).encode(), edits, str(path)) for path, edits in planned.edits.items()}
    return {**files, **{path: data.decode() for path, data in new.items()}}


def effective(files: dict[Path, str]) -> RegistriesConf:
    """As podman reads them: the main file, then drop-ins by name."""
    result = RegistriesConf()
    for path in sorted(files, key=lambda path: (path != MAIN, path.name)):
        result = result.merged(parse_conf(files[path], str(path)))
    return result


def first_endpoint(files: dict[Path, str], reference: str) -> str:
    endpoint = effective(files).endpoints(parse_reference(reference))[0]
    return f"{endpoint.host}/{endpoint.repository}"


@pytest.mark.parametrize(
    "main", [BLOCKS, "", BLOCKS.replace("\n", "\r\n"), BLOCKS.rstrip()], ids=["lf", "empty", "crlf", "cut"]
)
def test_every_name_reaches_the_mirror_whole(main: str) -> None:
    files = {MAIN: main}
    names = ["docker.io/library/busybox:1", "docker.io/me/app:1", "quay.io/a/b/c:2", "other.example/x:1"]
    hosts = ("docker.io", "quay.io", "other.example")
    after = written(files, plan(files, *hosts))
    for name in names:
        assert first_endpoint(after, name) == f"{MIRROR}/{name.rpartition(':')[0]}"
    again = plan(after, *hosts)
    assert again.edits == {}
    assert mirrored(effective(after), 4780) == (tuple(sorted(p for p in effective(after).registries)), ())


def test_a_registry_with_a_port() -> None:
    """A colon cannot stand in a mirror's location; podman would refuse every pull."""
    files = {MAIN: '[[registry]]\nlocation = "localhost:5000/tagged:1"\n[[registry]]\nlocation = "localhost:5000"\n'}
    after = written(files, plan(files, "localhost:5000", "other.example:8443"))
    assert first_endpoint(after, "localhost:5000/a:1") == f"{MIRROR}/localhost__5000/a"
    assert first_endpoint(after, "other.example:8443/a:1") == f"{MIRROR}/other.example__8443/a"
    assert effective(after).registries["localhost:5000/tagged:1"].mirrors == ()
    assert plan(after, "localhost:5000", "other.example:8443").edits == {}


def test_what_no_mirror_can_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="cannot be asked for it"):
        plan({}, "[::1]:5000")
    assert len(plan({}, found=("[::1]:5000",)).notes) == 1


def test_blocks_keep_all_their_settings() -> None:
    files = {MAIN: BLOCKS}
    after = written(files, plan(files, "docker.io"))
    before, now = effective(files).registries, effective(after).registries
    for prefix in ("docker.io", "docker.io/library"):
        assert now[prefix].mirrors[0].location == f"{MIRROR}/{prefix}"
        assert now[prefix].mirrors[0].insecure
        assert now[prefix].mirrors[1:] == before[prefix].mirrors
        assert (now[prefix].location, now[prefix].insecure) == (before[prefix].location, before[prefix].insecure)
    assert now["other.example"] == before["other.example"]
    assert DROP_IN not in after
    assert all(line in after[MAIN] for line in BLOCKS.splitlines())


def test_a_registry_without_a_block_gets_one_in_our_own_file() -> None:
    files = {MAIN: BLOCKS}
    after = written(files, plan(files, "quay.io", "ghcr.io"))
    assert after[MAIN] == BLOCKS
    assert after[DROP_IN].startswith(HEADER.decode())
    assert set(parse_conf(after[DROP_IN], "x").registries) == {"quay.io", "ghcr.io"}
    more = plan(after, "quay.io", "ghcr.io", "gcr.io")
    assert [(path, edit.keys) for path, edits in more.edits.items() for edit in edits] == [(DROP_IN, ("gcr.io",))]


def test_the_block_that_counts_is_the_one_that_is_changed() -> None:
    later = Path("/etc/containers/registries.conf.d/zz.conf")
    files = {MAIN: BLOCKS, later: '[[registry]]\nlocation = "docker.io"\n'}
    planned = plan(files, "docker.io")
    assert {path: [edit.keys[0] for edit in edits] for path, edits in planned.edits.items()} == {
        MAIN: ["docker.io/library"],
        later: ["docker.io"],
    }


def test_another_port_takes_the_place_of_the_old_one() -> None:
    files = {MAIN: BLOCKS}
    first = plan(files, "docker.io", "quay.io")
    after = written(files, first)
    moved = plan(after, "docker.io", "quay.io", port=5000)
    now = written(after, moved)
    assert mirrored(effective(now), 5000)[0] == ("docker.io", "docker.io/library", "quay.io")
    assert mirrored(effective(after), 5000) == ((), ("docker.io", "docker.io/library", "quay.io"))
    assert "4780" not in "".join(now.values())
    back = revert(now[MAIN].encode(), [*first.edits[MAIN], *moved.edits[MAIN]], "f")
    assert parse_conf(back.decode(), "x") == parse_conf(BLOCKS, "x")


@pytest.mark.parametrize("text", [BLOCKS, BLOCKS.replace("\n", "\r\n"), '[[registry]]\nlocation = "docker.io"\n'])
def test_undo_leaves_what_others_wrote(text: str) -> None:
    edits = plan({MAIN: text}, "docker.io").edits[MAIN]
    changed = perform(text.encode(), edits, "f") + b'\n[[registry]]\nlocation = "new.example"\n'
    back = revert(changed, edits, "f").decode()
    assert back.startswith(text)
    assert set(parse_conf(back, "f").registries) == {*parse_conf(text, "f").registries, "new.example"}


def test_undo_of_a_block_that_somebody_made_use_of() -> None:
    edits = plan({}, "quay.io", "ghcr.io").edits[DROP_IN]
    assert {edit.kind for edit in edits} == {Kind.REGISTRY}
    ours = perform(HEADER, edits, "f").decode()
    used = ours.replace('location = "quay.io"\n', 'location = "quay.io"\ninsecure = true\n', 1)
    back = parse_conf(revert(used.encode(), edits, "f").decode(), "f").registries
    assert set(back) == {"quay.io"}
    assert back["quay.io"].insecure
    assert back["quay.io"].mirrors == ()
    assert revert(ours.encode(), edits, "f").strip() == HEADER.strip()


REFUSED = {
    "blocked": ('[[registry]]\nlocation = "docker.io"\nblocked = true\n', "blocks it"),
    "below": ('[[registry]]\nlocation = "docker.io"\n[[registry]]\nlocation = "docker.io/x"\nblocked = true\n', "blocks it"),
    "wildcard": ('[[registry]]\nprefix = "*.io"\ninsecure = true\n', "settings for *.io"),
    "old format": ('[registries.insecure]\nregistries = ["docker.io"]\n', "old format"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_left_alone(case: str) -> None:
    text, what = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        plan({MAIN: text}, "docker.io")
    assert what in caught.value.what
    assert caught.value.hint
    planned = plan({MAIN: text}, found=("docker.io", "quay.example"))
    assert [edit.keys for edits in planned.edits.values() for edit in edits] == [("quay.example",)]
    (note,) = planned.notes
    assert what in note


def test_the_old_format_beside_a_drop_in() -> None:
    text = '[registries.search]\nregistries = ["docker.io"]\n'
    after = written({MAIN: text}, plan({MAIN: text}, "docker.io"))
    assert first_endpoint(after, "docker.io/a/b:1") == f"{MIRROR}/docker.io/a/b"


def test_files_of_packages_are_not_changed() -> None:
    with pytest.raises(ConfigError, match="belongs to a package"):
        plan({Path("/usr/share/containers/registries.conf"): BLOCKS}, "docker.io")


@pytest.mark.parametrize(
    "text", ["[[registry]\n", "[[registry]]\ninsecure = true\n", "registry = 1\n", "[registries]\n[[registry]]\n"]
)
def test_a_malformed_file_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"registries\.conf"):
        plan({MAIN: text}, "docker.io")


def test_mirrors_written_in_line() -> None:
    text = '[[registry]]\nlocation = "docker.io"\nmirror = [{location = "m.example"}]\n'
    after = written({MAIN: text}, plan({MAIN: text}, "docker.io"))
    mirrors = effective(after).registries["docker.io"].mirrors
    assert [mirror.location for mirror in mirrors] == [f"{MIRROR}/docker.io", "m.example"]


def test_a_diff_of_a_new_file() -> None:
    edits = plan({}, "quay.io").edits[DROP_IN]
    diff = Change(DROP_IN, None, perform(HEADER, edits, "f"), edits).diff()
    assert diff.startswith(f"--- /dev/null\n+++ {DROP_IN}\n")
    assert '+location = "127.0.0.1:4780/quay.io"\n' in diff


def test_names_in_one_line() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some("abcdef") == "a, b, c, d and 2 more"
