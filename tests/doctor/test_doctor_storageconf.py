"""storage.conf as containers/storage reads it, and podman's account of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from als.config import Config
from als.doctor.storageconf import StorageConf, combine, parse_podman_info, parse_storage_conf, read_storage_conf
from als.errors import ConfigError
from tests.doctor.machines import GOOD_CONF

EXAMPLE = Path(__file__).parents[2] / "storage.conf.example"


def test_the_example_is_right() -> None:
    conf = parse_storage_conf(EXAMPLE.read_text("utf-8"), GOOD_CONF.source)
    assert conf == GOOD_CONF
    assert conf.layer_stores == (f"{Config().layer_store}:ref",)
    assert conf.image_stores == (str(Config().image_store4),)


def test_mountopt_of_overlay_wins() -> None:
    common = '[storage.options]\nmountopt = "nodev"\nmount_program = "/a"\n'
    assert parse_storage_conf(common, "f").mount_options == ("nodev",)
    both = parse_storage_conf(
        common + '[storage.options.overlay]\nmountopt = " metacopy=on , nodev,"\nmount_program = "/b"\n', "f"
    )
    assert both.mount_options == ("metacopy=on", "nodev")
    assert both.mount_program == "/b"


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "storage = 1",
        "[storage]\noptions = []",
        "[storage]\ndriver = 1",
        '[storage.options]\nadditionallayerstores = "/a:ref"',
        "[storage.options]\nadditionalimagestores = [1]",
        '[storage.options]\nadditionalimagestores = ""',
    ],
)
def test_mistakes_name_the_file(text: str) -> None:
    with pytest.raises(ConfigError, match="the-file"):
        parse_storage_conf(text, "the-file")


PODMAN_4 = {
    "store": {
        "configFile": "/etc/containers/storage.conf",
        "graphDriverName": "overlay",
        "graphOptions": {
            "overlay.additionallayerstore": "/var/lib/als/store:ref",
            "overlay.imagestore": "/var/lib/als/is4",
            "overlay.mountopt": "nodev,metacopy=on",
        },
        "graphRoot": "/var/lib/containers/storage",
        "runRoot": "/run/containers/storage",
    }
}


def test_podman_4_info() -> None:
    assert parse_podman_info(PODMAN_4) == GOOD_CONF


def test_podman_5_info() -> None:
    options = {
        "overlay.additionalImageStores": ["/a", "/b"],
        "overlay.imagestore": "/b",
        "overlay.mount_program": {"Executable": "/usr/bin/fuse-overlayfs", "Package": "x", "Version": "y"},
    }
    conf = parse_podman_info({"store": {"graphOptions": options}})
    assert (conf.image_stores, conf.mount_program) == (("/a", "/b"), "/usr/bin/fuse-overlayfs")


def test_podman_5_8_info() -> None:
    options = {
        "additionalImageStores": ["/a", "/b"],
        "additionallayerstore": "/s:ref",
        "imagestore": "/b",
        "overlay.mountopt": "nodev,metacopy=on",
    }
    conf = parse_podman_info({"store": {"graphOptions": options}})
    assert (conf.image_stores, conf.layer_stores) == (("/a", "/b"), ("/s:ref",))
    assert conf.mount_options == ("nodev", "metacopy=on")


def test_podman_without_options() -> None:
    conf = parse_podman_info({"store": {"graphDriverName": "overlay", "graphOptions": None, "graphRoot": "/g"}})
    assert conf == StorageConf(source="podman info", driver="overlay", graph_root="/g")
    with pytest.raises(ConfigError):
        parse_podman_info({"store": []})


def test_the_files_fill_in_what_podman_leaves_out() -> None:
    files = replace(GOOD_CONF, layer_stores=("/var/lib/als/store:ref", "/x:ref"), mount_options=("nodev",))
    podman = replace(GOOD_CONF, layer_stores=("/x:ref",))
    combined = combine(files, podman)
    assert combined is not None
    assert combined.layer_stores == files.layer_stores
    assert combined.mount_options == podman.mount_options
    overruled = combine(files, replace(podman, layer_stores=("/elsewhere:ref",), image_stores=()))
    assert overruled is not None
    assert (overruled.layer_stores, overruled.image_stores) == (("/elsewhere:ref",), ())


def test_one_witness_is_enough() -> None:
    assert combine(GOOD_CONF, None) == GOOD_CONF
    assert combine(None, None) is None
    alone = combine(None, GOOD_CONF)
    assert alone is not None
    assert alone.source == "no storage.conf"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Stand-ins for /etc/containers and /usr/share/containers."""
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    for folder in (etc, usr):
        (folder / "storage.conf.d").mkdir(parents=True)
    return etc, usr


def conf(path: Path, root: str, extra: str = "") -> Path:
    path.write_text(f'[storage]\ngraphroot = "{root}"\n{extra}')
    return path


def root_of(found: StorageConf | None) -> str:
    return found.graph_root if found else "none"


def test_the_first_file_is_read_alone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    etc, usr = folders
    assert read_storage_conf({}, folders=folders) is None
    conf(usr / "storage.conf", "/usr", 'driver = "overlay"')
    assert root_of(read_storage_conf({}, folders=folders)) == "/usr"
    conf(etc / "storage.conf", "/etc")
    found = read_storage_conf({}, folders=folders)
    assert found is not None
    assert (found.graph_root, found.driver) == ("/etc", "")
    named = {"CONTAINERS_STORAGE_CONF": str(conf(tmp_path / "named", "/named"))}
    assert root_of(read_storage_conf(named, folders=folders)) == "/named"
    # A name that leads nowhere takes the place of /etc's file; /usr's is still there.
    assert root_of(read_storage_conf({"CONTAINERS_STORAGE_CONF": "/missing"}, folders=folders)) == "/usr"


def test_drop_ins_of_podman_6(folders: tuple[Path, Path]) -> None:
    etc, usr = folders
    conf(etc / "storage.conf", "/etc", 'driver = "overlay"')
    conf(usr / "storage.conf.d" / "50-a.conf", "/usr-50")
    conf(usr / "storage.conf.d" / "90-b.conf", "/usr-90")
    assert root_of(read_storage_conf({}, folders=folders)) == "/etc"
    found = read_storage_conf({}, drop_ins=True, folders=folders)
    assert found is not None
    assert (found.graph_root, found.driver) == ("/usr-90", "overlay")
    (etc / "storage.conf.d" / "90-b.conf").touch()
    assert root_of(read_storage_conf({}, drop_ins=True, folders=folders)) == "/usr-50"


def test_a_file_that_cannot_be_read_is_named(folders: tuple[Path, Path]) -> None:
    (folders[0] / "storage.conf").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"storage\.conf"):
        read_storage_conf({}, folders=folders)
