"""CRI-O's configuration: where it lies, what of it holds, and what als has to say about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from als.doctor.checks import Finding, Level, diagnose
from als.doctor.crioconf import CrioConf, parse_crio_conf, read_crio_conf
from als.doctor.facts import CrioFacts
from als.doctor.storageconf import StorageConf
from als.errors import ConfigError
from tests.doctor.machines import GOOD

STORE = str(GOOD.store.image_store)
OPTIONS = (f"overlay.imagestore={STORE}", "overlay.mountopt=nodev,metacopy=on")
NOTHING = StorageConf("storage.conf")
GOOD_CRIO = CrioConf("crio.conf", storage_options=OPTIONS, internal_repair=False)


def test_later_files_go_over_earlier_ones(tmp_path: Path) -> None:
    main, drop_ins = tmp_path / "crio.conf", tmp_path / "crio.conf.d"
    (drop_ins / "20").mkdir(parents=True)
    main.write_text('[crio]\nroot = "/a"\nrunroot = "/run/a"\nstorage_option = ["overlay.mountopt=nodev"]\n')
    (drop_ins / "10-als.conf").write_text('[crio]\nstorage_option = [".imagestore=/x,/y"]\ninternal_repair = false\n')
    (drop_ins / "20" / "more").write_text(
        '[crio]\nroot = "/b"\nroot_other = 1\nstorage_option = ["overlay.mountopt=metacopy=on"]\n'
    )
    (drop_ins / "30-empty.conf").write_text("")
    conf = read_crio_conf({}, main, drop_ins)
    assert conf is not None
    assert (conf.graph_root, conf.run_root, conf.internal_repair) == ("/b", "/run/a", False)
    assert conf.image_stores == ("/x", "/y")
    assert conf.mount_options == ("metacopy=on",)
    assert conf.source.count(str(tmp_path)) == 4


def test_the_environment_names_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text('[crio]\nroot = "/mine"\nimagestore = "/images"\n')
    environment = {"CONTAINER_CONFIG": str(tmp_path / "mine"), "CONTAINER_CONFIG_DIR": str(tmp_path / "none")}
    conf = read_crio_conf(environment)
    assert conf == CrioConf(str(tmp_path / "mine"), graph_root="/mine", image_store="/images")
    assert conf is not None and conf.internal_repair, "CRI-O's own default"


def test_no_file_is_no_crio(tmp_path: Path) -> None:
    assert read_crio_conf({}, tmp_path / "a", tmp_path / "b") is None


@pytest.mark.parametrize(
    "text",
    [
        "root",
        'crio = "x"',
        "[crio]\nroot = 1",
        "[crio]\nstorage_option = [1]",
        '[crio]\nstorage_option = ""',
        '[crio]\ninternal_repair = "no"',
    ],
)
def test_malformed_files_are_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_crio_conf(text, "some.conf")
    assert caught.value.where == "some.conf"


def findings(conf: CrioConf | None, storage: StorageConf = NOTHING, problem: str = "") -> list[Finding]:
    facts = CrioFacts(conf, storage, problem)
    return [finding for finding in diagnose(replace(GOOD, crio=facts)) if finding.level is not Level.OK]


def test_a_good_node() -> None:
    assert findings(GOOD_CRIO) == []
    assert findings(None) == []


def test_storage_conf_holds_where_crio_conf_says_nothing() -> None:
    conf = replace(GOOD_CRIO, storage_options=())
    storage = replace(NOTHING, image_stores=(STORE + "/",), mount_options=("nodev", "metacopy=on"))
    assert findings(conf, storage) == []
    assert findings(replace(conf, storage_options=("overlay.mountopt=nodev",)), storage)[0].what.count("metacopy")


@pytest.mark.parametrize(
    ("conf", "word"),
    [
        (replace(GOOD_CRIO, internal_repair=True), "internal_repair"),
        (replace(GOOD_CRIO, storage_options=OPTIONS[1:]), STORE),
        (replace(GOOD_CRIO, storage_options=OPTIONS[:1]), "metacopy=on"),
    ],
)
def test_what_a_node_lacks(conf: CrioConf, word: str) -> None:
    (finding,) = findings(conf)
    assert finding.level is Level.ERROR and word in finding.what and finding.remedy


def test_a_file_that_is_not_understood() -> None:
    (finding,) = findings(None, problem="10-als.conf: not TOML")
    assert finding.level is Level.ERROR and "10-als.conf" in finding.what
