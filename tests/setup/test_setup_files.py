"""Files, backups and the journal: all or nothing, and back to what it was, byte by byte."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from als.errors import ConfigError, StoreDamaged
from als.mount.unmounting import unmounting
from als.native import mounts
from als.setup import files
from als.setup.act import Journal, apply, carry_out, metacopy_users, plan_undo
from als.setup.edits import Edit, perform
from als.setup.plan import Change
from als.setup.storageconf import storage_edits
from tests.setup.shapes import FEDORA, SHAPES, WANTED, WANTED5


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    (tmp_path / "als" / "locks").mkdir(parents=True)
    return Journal(tmp_path / "als")


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "storage.conf"
    path.parent.mkdir()
    path.write_text(FEDORA, "utf-8")
    return path


def edits_for(data: bytes, wanted: object = WANTED) -> tuple[Edit, ...]:
    assert wanted in (WANTED, WANTED5)
    return tuple(storage_edits(data, "f", WANTED if wanted is WANTED else WANTED5, "overlay"))


def change(path: Path, wanted: object = WANTED) -> Change:
    before = files.read_file(path)
    edits = edits_for(before or b"", wanted)
    return Change(path, before, perform(before or b"", edits, "f"), edits)


def undo(journal: Journal, keep_metacopy: bool = False) -> None:
    carry_out(plan_undo(journal, keep_metacopy=keep_metacopy), journal)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(shape: str, conf: Path, journal: Journal) -> None:
    conf.write_bytes(SHAPES[shape].encode())
    conf.chmod(0o640)
    first = change(conf)
    (record,) = apply([first], journal)
    assert conf.read_bytes() == first.after
    assert record.backup is not None
    assert record.backup.read_bytes() == SHAPES[shape].encode()
    assert stat.S_IMODE(record.backup.stat().st_mode) == stat.S_IMODE(conf.stat().st_mode) == 0o640
    undo(journal)
    assert conf.read_bytes() == SHAPES[shape].encode()
    assert stat.S_IMODE(conf.stat().st_mode) == 0o640
    assert sorted(os.listdir(conf.parent)) == ["storage.conf"]
    assert not journal.path.exists()
    assert plan_undo(journal) == []


def test_several_changes_are_undone_as_one(conf: Path, journal: Journal) -> None:
    apply([change(conf)], journal)
    apply([change(conf, WANTED5)], journal)
    assert sorted(os.listdir(conf.parent)) == ["storage.conf", "storage.conf.als-backup"]
    undo(journal)
    assert conf.read_text("utf-8") == FEDORA


def test_a_file_of_our_own_goes_again(tmp_path: Path, journal: Journal) -> None:
    path = tmp_path / "conf.d" / "als.conf"
    apply([change(path)], journal)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    undo(journal)
    assert os.listdir(path.parent) == []


def test_a_backup_of_a_drop_in_is_not_taken_for_one(tmp_path: Path, journal: Journal) -> None:
    """CRI-O reads every file of crio.conf.d, whatever its name."""
    path = tmp_path / "crio.conf.d" / "10-storage.conf"
    path.parent.mkdir()
    path.write_text("[storage]\n", "utf-8")
    (record,) = apply([change(path)], journal)
    assert record.backup == tmp_path / "10-storage.conf.als-backup"
    assert os.listdir(path.parent) == ["10-storage.conf"]


def test_attributes_and_owner_are_kept(conf: Path, journal: Journal, as_root: None) -> None:
    os.chown(conf, 1234, 4321)
    conf.chmod(0o604)
    os.setxattr(conf, "security.selinux", b"system_u:object_r:container_config_t:s0\0")
    os.setxattr(conf, "trusted.note", b"x")
    (record,) = apply([change(conf)], journal)
    assert record.backup is not None
    for path in (conf, record.backup):
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 4321, 0o604)
        assert os.getxattr(path, "security.selinux") == b"system_u:object_r:container_config_t:s0\0"
        assert os.getxattr(path, "trusted.note") == b"x"


def test_what_somebody_changed_since_stays(conf: Path, journal: Journal) -> None:
    apply([change(conf)], journal)
    conf.write_text(conf.read_text("utf-8").replace('graphroot = "/var/lib', 'graphroot = "/srv'), "utf-8")
    undo(journal)
    assert conf.read_text("utf-8") == FEDORA.replace('graphroot = "/var/lib', 'graphroot = "/srv')
    assert sorted(os.listdir(conf.parent)) == ["storage.conf", "storage.conf.als-backup"]


def test_what_somebody_changed_between_two_changes_is_saved(conf: Path, journal: Journal) -> None:
    apply([change(conf)], journal)
    edited = conf.read_text("utf-8") + "# mine\n"
    conf.write_text(edited, "utf-8")
    apply([change(conf, WANTED5)], journal)
    assert (conf.parent / "storage.conf.als-backup").read_text("utf-8") == FEDORA
    assert (conf.parent / "storage.conf.als-backup.1").read_text("utf-8") == edited
    undo(journal)
    assert conf.read_text("utf-8") == FEDORA + "# mine\n"


def test_what_we_set_and_somebody_changed_is_not_guessed(conf: Path, journal: Journal) -> None:
    conf.write_text("", "utf-8")
    apply([change(conf)], journal)
    conf.write_text(conf.read_text("utf-8").replace('"overlay"', '"vfs"'), "utf-8")
    before = conf.read_bytes()
    with pytest.raises(ConfigError, match="was changed to 'vfs'"):
        plan_undo(journal)
    assert conf.read_bytes() == before
    assert journal.path.exists()


def test_undo_may_keep_the_mount_option(conf: Path, journal: Journal) -> None:
    conf.write_text('[storage]\ngraphroot = "/g"\n', "utf-8")
    apply([change(conf)], journal)
    undo(journal, keep_metacopy=True)
    text = conf.read_text("utf-8")
    assert 'driver = "overlay"' in text
    assert 'mountopt = "nodev,metacopy=on"' in text
    assert "/var/lib/als" not in text
    assert not journal.path.exists()


def test_containers_that_need_the_option_keep_it(tmp_path: Path, conf: Path, journal: Journal, as_root: None) -> None:
    graph = tmp_path / "graph"
    upper = graph / "overlay" / ("a" * 64) / "diff" / "bin"
    upper.mkdir(parents=True)
    (graph / "overlay" / "l").mkdir()
    (upper / "tool").touch()
    text = FEDORA.replace(",metacopy=on", "").replace("/var/lib/containers/storage", str(graph))
    conf.write_text(text, "utf-8")
    apply([change(conf)], journal)
    assert metacopy_users(graph) == []
    assert len(plan_undo(journal)) == 1
    os.setxattr(upper / "tool", "trusted.overlay.metacopy", b"")
    assert metacopy_users(graph) == ["a" * 64]
    with pytest.raises(ConfigError, match=r"aaaa.*--keep-metacopy"):
        plan_undo(journal)
    undo(journal, keep_metacopy=True)
    assert 'mountopt = "nodev,metacopy=on"' in conf.read_text("utf-8")


def test_all_or_nothing(conf: Path, tmp_path: Path, journal: Journal, as_root: None) -> None:
    readonly = tmp_path / "readonly"
    readonly.mkdir()
    with unmounting(readonly):
        mounts.mount("none", readonly, "tmpfs", mounts.MountFlag.RDONLY)
        with pytest.raises(ConfigError, match="cannot be written: Read-only file system") as caught:
            apply([change(conf), change(readonly / "als.conf")], journal)
    assert "without --apply" in caught.value.hint
    assert conf.read_text("utf-8") == FEDORA
    assert sorted(os.listdir(conf.parent)) == ["storage.conf"]
    undo(journal)
    assert conf.read_text("utf-8") == FEDORA


def test_a_crash_before_the_files_were_written_is_harmless(
    conf: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            apply([change(conf)], journal)
    assert journal.path.exists()
    undo(journal)
    assert conf.read_text("utf-8") == FEDORA
    apply([change(conf)], journal)
    undo(journal)
    assert conf.read_text("utf-8") == FEDORA


def test_a_plan_that_is_out_of_date(conf: Path, journal: Journal) -> None:
    old = change(conf)
    conf.write_text(FEDORA + "# mine\n", "utf-8")
    with pytest.raises(ConfigError, match="in the meantime"):
        apply([old], journal)
    apply([change(conf)], journal)
    steps = plan_undo(journal)
    conf.write_text(FEDORA, "utf-8")
    with pytest.raises(ConfigError, match="in the meantime"):
        carry_out(steps, journal)


@pytest.mark.parametrize("value", [{}, {"files": [{}]}, {"files": [{"path": 1}]}, {"files": 3}])
def test_a_damaged_journal_says_what_to_do(value: object, journal: Journal) -> None:
    journal.path.write_text(json.dumps(value), "utf-8")
    with pytest.raises(StoreDamaged, match="by hand"):
        plan_undo(journal)


def test_a_removed_file_stays_removed(conf: Path, journal: Journal) -> None:
    apply([change(conf)], journal)
    conf.unlink()
    undo(journal)
    assert not conf.exists()
    assert (conf.parent / "storage.conf.als-backup").read_text("utf-8") == FEDORA
