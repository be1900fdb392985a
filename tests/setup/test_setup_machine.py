"""Which client, which files, which registries: looked up below a root of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from als.config import Config
from als.doctor.crioconf import read_crio_conf
from als.errors import ConfigError
from als.model.digest import Digest
from als.setup.clients import Client, Installed, choose, wanted
from als.setup.edits import Edit, Kind, perform, revert
from als.setup.machine import Place, look, registries_drop_in
from als.setup.plan import Plan, Situation, make_plan
from als.store.images import Images
from als.store.layout import Layout
from tests.setup.shapes import FEDORA

CONFIG = Config()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A machine without any configuration, and without podman."""
    for folder in ("etc/containers", "usr/share/containers", "root"):
        (tmp_path / folder).mkdir(parents=True)
    return Place({"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path / "root")}, tmp_path)


def with_variable(place: Place, name: str, value: object) -> Place:
    return Place({**place.environment, name: str(value)}, place.system)


def seen(place: Place, client: str = "podman5", hosts: tuple[str, ...] = (), config: Config = CONFIG) -> Situation:
    return look(config, place, client, hosts)


def planned(place: Place, client: str = "podman5", hosts: tuple[str, ...] = ()) -> Plan:
    return make_plan(seen(place, client, hosts))


@pytest.mark.parametrize(
    ("installed", "client"),
    [
        (Installed((4, 3, 1)), Client.PODMAN4),
        (Installed((5, 4, 2)), Client.PODMAN5),
        (Installed((6, 0)), Client.PODMAN5),
        (Installed((5, 8, 6), "1.37"), Client.PODMAN5),
        (Installed(None, "1.37"), Client.CRIO),
    ],
)
def test_the_client_that_is_installed(installed: Installed, client: Client) -> None:
    assert choose(installed, None) is client
    assert choose(installed, "podman4") is Client.PODMAN4


@pytest.mark.parametrize(
    ("installed", "what"),
    [
        (Installed(), "neither podman nor CRI-O"),
        (Installed((3, 4, 4)), "older than any"),
        (Installed((4, 9, 4), "1.30"), "need image stores of different layouts"),
    ],
)
def test_it_cannot_be_told(installed: Installed, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        choose(installed, None)
    assert caught.value.hint


def test_what_each_client_needs() -> None:
    old = wanted(Client.PODMAN4, Installed((4, 3, 1)), CONFIG)
    assert (old.image_store, old.mirror_port, old.drop_in) == ("/var/lib/als/is4", 0, False)
    for client in (Client.PODMAN5, Client.CRIO):
        new = wanted(client, Installed((5, 8, 6)), CONFIG)
        assert (new.image_store, new.mirror_port, new.drop_in) == ("/var/lib/als/image-store", Config().mirror_port, False)
    assert wanted(Client.PODMAN5, Installed((6, 0, 0)), CONFIG).drop_in
    assert wanted(Client.PODMAN5, Installed((5, 8, 6)), Config(mirror_port=0)).mirror_port == 0


def test_the_machines_own_file(place: Place) -> None:
    path = place.path("/etc/containers/storage.conf")
    path.write_text(FEDORA, "utf-8")
    place.path("/usr/share/containers/storage.conf").write_text("[storage]\n", "utf-8")
    (change,) = planned(place).changes
    assert (change.path, change.before, change.source) == (path, FEDORA.encode(), "")


def test_the_file_of_a_package_is_copied(place: Place) -> None:
    vendor = place.path("/usr/share/containers/storage.conf")
    vendor.write_text(FEDORA, "utf-8")
    plan = planned(place)
    (change,) = plan.changes
    assert (change.path, change.before, change.source) == (place.path("/etc/containers/storage.conf"), None, str(vendor))
    assert change.diff().startswith(f"--- {vendor}\n+++ {change.path}\n@@")
    assert len(change.diff().splitlines()) < 30
    assert b"# Additional read-only image stores, one a line." in change.after
    assert any("becomes a copy" in note for note in plan.notes)


def test_no_file_at_all(place: Place) -> None:
    (change,) = planned(place, "podman4").changes
    text = change.after.decode()
    for line in ('driver = "overlay"', 'graphroot = "/var/lib/containers/storage"', 'runroot = "/run/containers/storage"'):
        assert line in text, "podman ends with an error where the file that it reads lacks one of these"


def test_a_symlink_leads_to_the_file(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "managed.conf"
    target.write_text(FEDORA, "utf-8")
    place.path("/etc/containers/storage.conf").symlink_to(target)
    (change,) = planned(place).changes
    assert change.path == target


def test_the_file_that_the_environment_names(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "mine.conf"
    path.write_text(FEDORA, "utf-8")
    plan = planned(with_variable(place, "CONTAINERS_STORAGE_CONF", path))
    assert [change.path for change in plan.changes] == [path]
    assert any("CONTAINERS_STORAGE_CONF is set" in note for note in plan.notes)


def test_a_file_of_roots_own(place: Place, tmp_path: Path) -> None:
    own = tmp_path / "xdg" / "containers" / "storage.conf"
    own.parent.mkdir(parents=True)
    place = with_variable(place, "XDG_CONFIG_HOME", tmp_path / "xdg")
    assert planned(place).changes
    own.write_text(FEDORA, "utf-8")
    with pytest.raises(ConfigError, match="hides that of the machine") as caught:
        planned(place)
    assert f"CONTAINERS_STORAGE_CONF={own}" in caught.value.hint


def test_podman_6_gets_a_drop_in_for_root_alone(place: Place, tmp_path: Path) -> None:
    etc = place.path("/etc/containers/storage.conf")
    etc.write_text(FEDORA, "utf-8")
    podman = tmp_path / "bin" / "podman"
    podman.parent.mkdir()
    # Nobody packages podman 6 yet; all that matters here is the version it tells.
    podman.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "podman version 6.0.1" || exit 1\n', "utf-8")
    podman.chmod(0o755)
    situation = look(CONFIG, place, None, ())
    (change,) = make_plan(situation).changes
    assert change.path == place.path("/etc/containers/storage.rootful.conf.d/als.conf")
    assert b'"/usr/lib/containers/storage", "/var/lib/als/image-store"' in change.after
    assert b"driver" not in change.after
    change.path.parent.mkdir()
    change.path.write_bytes(change.after)
    assert make_plan(look(CONFIG, place, None, ())).changes == ()


def test_registries_come_from_the_user_the_search_list_or_the_store(place: Place, tmp_path: Path) -> None:
    config = Config(root=tmp_path / "als")
    assert seen(place, config=config).hosts.found == ()
    assert any("no registry is known" in note for note in planned(place).notes)
    conf = place.path("/etc/containers/registries.conf")
    conf.write_text('unqualified-search-registries = ["docker.io"]\n', "utf-8")
    Layout(config.root).create()
    digest = Digest.of(b"x")
    for name in ("quay.io/a/b:1", "docker.io/library/c:1", "localhost/d:1", "oci:/srv/e:1"):
        Images(Layout(config.root)).name(name, digest, digest)
    assert seen(place, config=config).hosts.found == ("docker.io", "quay.io")
    asked = seen(place, hosts=("ghcr.io", "[::1]:5000"), config=config).hosts
    assert (asked.asked, asked.found) == (("ghcr.io", "[::1]:5000"), ())


@pytest.mark.parametrize("host", ["", "https://quay.io", "quay.io/a", "a b", "*.io", "quay.io:x", "-a"])
def test_what_is_no_registry(place: Place, host: str) -> None:
    with pytest.raises(ConfigError, match="not a registry's name"):
        seen(place, hosts=(host,))


def test_where_our_blocks_go(place: Place, tmp_path: Path) -> None:
    system = place.path("/etc/containers/registries.conf.d/als.conf")
    assert registries_drop_in(place) == system
    assert registries_drop_in(with_variable(place, "CONTAINERS_REGISTRIES_CONF_DIR", "/d")) == Path("/d/als.conf")
    place.path("/etc/containers/registries.conf").touch()
    assert registries_drop_in(place) == system
    own = tmp_path / "root" / ".config" / "containers" / "registries.conf"
    own.parent.mkdir(parents=True)
    own.touch()
    assert registries_drop_in(place) == own.parent / "registries.conf.d" / "als.conf"


def test_podman_4_needs_no_mirror(place: Place) -> None:
    plan = planned(place, "podman4", ("docker.io",))
    assert [change.path.name for change in plan.changes] == ["storage.conf"]
    assert any("docs/podman4.md" in note for note in plan.notes)
    assert [change.path.name for change in planned(place, "crio", ("docker.io",)).changes][1:] == ["storage.conf", "als.conf"]


def test_options_of_crio_that_go_before(place: Place, tmp_path: Path) -> None:
    conf = tmp_path / "crio.conf"
    place = with_variable(with_variable(place, "CONTAINER_CONFIG", conf), "CONTAINER_CONFIG_DIR", tmp_path / "none")
    conf.write_text('[crio]\nstorage_option = ["overlay.mountopt=nodev"]\n', "utf-8")
    assert any("storage_option" in note for note in planned(place, "crio").notes)
    conf.write_text('[crio]\nstorage_option = ["overlay.mountopt=nodev,metacopy=on"]\n', "utf-8")
    assert not any("storage_option" in note for note in planned(place, "crio").notes)


CRIO_DROP_IN = "/etc/crio/crio.conf.d/50-als.conf"


def crio_changes(place: Place, client: str = "crio") -> dict[str, str]:
    """The changes of CRI-O's files, by their names."""
    found = {
        "/" + str(change.path.relative_to(place.system)): change.after.decode() for change in planned(place, client).changes
    }
    return {name: text for name, text in found.items() if name.startswith("/etc/crio")}


def written(place: Place, name: str, text: str) -> None:
    path = place.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def test_crio_must_not_repair_what_it_does_not_understand(place: Place) -> None:
    """With an additional store its check removes its whole storage: the one is never set without the other."""
    assert crio_changes(place, "podman5") == {}, "there is no CRI-O"
    changes = crio_changes(place)
    assert list(changes) == [CRIO_DROP_IN]
    assert "[crio]\ninternal_repair = false\n" in changes[CRIO_DROP_IN]
    assert [change.path.name for change in planned(place, "crio").changes] == ["50-als.conf", "storage.conf"]
    written(place, CRIO_DROP_IN, changes[CRIO_DROP_IN])
    assert crio_changes(place) == {}


@pytest.mark.parametrize("client", ["podman4", "podman5", "crio"])
def test_crio_reads_storage_conf_for_whomever_it_is_set_up(place: Place, client: str) -> None:
    written(place, "/etc/crio/crio.conf", "[crio]\n")
    assert list(crio_changes(place, client)) == [CRIO_DROP_IN]


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        ({"/etc/crio/crio.conf": "[crio]\ninternal_repair = true # yes\n"}, "/etc/crio/crio.conf"),
        ({"/etc/crio/crio.conf.d/99-x.conf": "[crio]\ninternal_repair = true\n"}, "/etc/crio/crio.conf.d/99-x.conf"),
        ({CRIO_DROP_IN: "# mine\n[crio]\nroot = '/srv'\n"}, CRIO_DROP_IN),
        ({"/etc/crio/crio.conf": "[crio]\ninternal_repair = true\n", CRIO_DROP_IN: "[crio]\ninternal_repair = false\n"}, None),
    ],
)
def test_the_file_of_crio_that_counts(place: Place, files: dict[str, str], changed: str | None) -> None:
    for name, text in files.items():
        written(place, name, text)
    changes = crio_changes(place)
    assert list(changes) == ([changed] if changed else [])
    for name, text in changes.items():
        assert "internal_repair = false" in text
        written(place, name, text)
    after = read_crio_conf({}, place.path("/etc/crio/crio.conf"), place.path("/etc/crio/crio.conf.d"))
    assert after is not None
    assert not after.internal_repair
    assert not after.graph_root or after.graph_root == "/srv"


def test_a_flag_is_taken_back() -> None:
    edit = Edit(Kind.FLAG, ("crio", "internal_repair"), "true", "false")
    text = b"[crio]\ninternal_repair = true # yes\n"
    assert revert(perform(text, [edit], "f"), [edit], "f") == text
    assert Edit.of_json(edit.as_json()) == edit
    with pytest.raises(ConfigError, match="was changed"):
        revert(b"[crio]\ninternal_repair = 3\n", [edit], "f")


def test_a_file_that_cannot_be_read(place: Place) -> None:
    place.path("/etc/containers/storage.conf").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        planned(place)
