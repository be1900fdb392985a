"""storage.conf: what is changed, what stays, and what is refused."""

from __future__ import annotations

import copy
import difflib
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from als.doctor.storageconf import StorageConf, parse_storage_conf
from als.errors import ConfigError
from als.setup.edits import Edit, Kind, edited, perform, revert
from als.setup.storageconf import storage_edits
from tests.setup.shapes import FEDORA, LEGACY, SHAPES, UPSTREAM, WANTED, WANTED5

ON_THIS_MACHINE = [path for folder in ("/etc", "/usr/share") if (path := Path(folder, "containers", "storage.conf")).is_file()]


def done(text: str, wanted: Any = WANTED, below: StorageConf | None = None) -> str:
    data = text.encode()
    return perform(data, storage_edits(data, "f", wanted, "overlay", below), "f").decode()


def without_ours(values: dict[str, Any]) -> dict[str, Any]:
    """What a file says beside what als is to say."""
    rest = copy.deepcopy(values)
    storage = rest.setdefault("storage", {})
    storage.pop("driver", None)
    options = storage.setdefault("options", {})
    options.setdefault("overlay", {}).pop("mountopt", None)
    options.pop("mountopt", None)
    for key in ("additionallayerstores", "additionalimagestores"):
        options[key] = [item for item in options.get(key, []) if not item.startswith("/var/lib/als/")]
    return rest


def check(text: str, wanted: Any = WANTED) -> str:
    """The invariants of every change; returns the new text."""
    after = done(text, wanted)
    conf = parse_storage_conf(after, "f")
    assert conf.driver == "overlay"
    assert conf.layer_stores.count(wanted.layer_store) == 1
    assert conf.image_stores.count(wanted.image_store) == 1
    assert not set(wanted.other_image_stores) & set(conf.image_stores)
    assert [option for option in conf.mount_options if option.startswith("metacopy")] == ["metacopy=on"]
    assert without_ours(tomllib.loads(after)) == without_ours(tomllib.loads(text))
    assert done(after, wanted) == after, "doing it again changes something"
    # Comments stay, and a line that goes is one of a setting of ours (or an inline table or list that has to hold it).
    gone = Counter(filter(str.strip, text.splitlines())) - Counter(after.splitlines())
    for line in gone:
        assert any(key in line for key in ("mountopt", "stores", "driver", '"/', "storage =", "]", "'/")), line
        assert line.count("#") == 0 or line.partition("#")[2] in after
    return after


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wanted", [WANTED, WANTED5], ids=["podman4", "podman5"])
def test_every_shape(shape: str, wanted: Any) -> None:
    text = SHAPES[shape]
    after = check(text, wanted)
    edits = storage_edits(text.encode(), "f", wanted, "overlay")
    back = revert(after.encode(), edits, "f").decode()
    assert without_ours(tomllib.loads(back)) == without_ours(tomllib.loads(text))
    before, again = (parse_storage_conf(each, "f") for each in (text, back))
    assert again == before


@pytest.mark.parametrize("path", ON_THIS_MACHINE or [None], ids=str)
def test_the_files_of_this_machine(path: Path | None) -> None:
    check(path.read_text("utf-8") if path else FEDORA)


def test_a_change_is_small() -> None:
    after = check(UPSTREAM)
    lines = [line for line in difflib.ndiff(UPSTREAM.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert sorted(line for line in lines if line[2:].strip()) == sorted(
        [
            '+     "/var/lib/als/is4"',
            '+ additionallayerstores = ["/var/lib/als/store:ref"]',
            '- mountopt = "nodev"',
            '+ mountopt = "nodev,metacopy=on"',
        ]
    )


def test_the_legacy_place_of_mountopt_is_where_it_counts() -> None:
    after = check(LEGACY)
    assert 'mountopt = "nodev,metacopy=on"   # as it was in 2019' in after
    assert "[storage.options.overlay]" not in after


def test_line_ends_stay_those_of_the_file() -> None:
    after = check(SHAPES["crlf"])
    assert after.count("\r\n") == after.count("\n")


@pytest.mark.parametrize(
    ("given_options", "becomes"),
    [
        ("nodev", "nodev,metacopy=on"),
        ("metacopy=off,nodev", "nodev,metacopy=on"),
        ("metacopy=on,metacopy=off", "metacopy=on"),
        ("fsync=0, redirect_dir=on", "fsync=0,redirect_dir=on,metacopy=on"),
        ("metacopy=on", "metacopy=on"),
        ("", "nodev,metacopy=on"),
    ],
)
def test_mount_options(given_options: str, becomes: str) -> None:
    text = f'[storage]\ndriver = "overlay"\n[storage.options.overlay]\nmountopt = "{given_options}"\n'
    assert tomllib.loads(check(text))["storage"]["options"]["overlay"]["mountopt"] == becomes


def test_an_image_store_for_another_podman_is_replaced() -> None:
    text = done(done(FEDORA, WANTED), WANTED5)
    conf = parse_storage_conf(text, "f")
    assert conf.image_stores == ("/usr/lib/containers/storage", "/var/lib/als/image-store")
    assert parse_storage_conf(done(text, WANTED), "f").image_stores == ("/usr/lib/containers/storage", "/var/lib/als/is4")


def test_a_layer_store_without_ref_is_put_right() -> None:
    text = '[storage]\ndriver = "overlay"\n[storage.options]\nadditionallayerstores = ["/x:ref", "/var/lib/als/store/"]\n'
    assert parse_storage_conf(check(text), "f").layer_stores == ("/x:ref", "/var/lib/als/store:ref")


@pytest.mark.parametrize(
    ("text", "driver_in_use", "what"),
    [
        ("[storage\n", "overlay", "not TOML"),
        ("\xff", "overlay", "not TOML"),
        ('[storage]\ndriver = "vfs"\n', "vfs", "'vfs'; additional stores exist for overlay only"),
        ('[storage]\ndriver = "btrfs"\n', "", "'btrfs'"),
        ('[storage]\ndriver = "overlay"\n', "vfs", "podman uses the driver 'vfs', although the file says overlay"),
        ("", "vfs", "what it once chose by itself; the file names none"),
        ('[storage.options.overlay]\nmount_program = "/usr/bin/fuse-overlayfs"\n', "overlay", "mount_program"),
        ('[storage.options]\nmountopt = "nodev,redirect_dir=off"\n', "overlay", "redirect_dir=off"),
        ('[storage.options.overlay]\nmountopt = "userxattr"\n', "overlay", "userxattr"),
        ("[storage]\noptions = 1\n", "overlay", "options is not a table"),
        ('[storage.options]\nadditionalimagestores = "/a"\n', "overlay", "not a list of strings"),
    ],
)
def test_what_is_refused(text: str, driver_in_use: str, what: str) -> None:
    with pytest.raises(ConfigError, match="the-file") as caught:
        storage_edits(text.encode("latin-1"), "the-file", WANTED, driver_in_use)
    assert what in caught.value.what
    assert caught.value.hint or "is not a" in what or "not a list" in what


def test_what_cannot_be_edited_safely_is_refused() -> None:
    """tomlkit would put the driver into the table that comes last; the second parser sees it."""
    data = b"storage.options.size = 'x'\n"
    edits = storage_edits(data, "the-file", WANTED, "overlay")
    with pytest.raises(ConfigError, match=r"the-file.*cannot be edited safely"):
        perform(data, edits, "the-file")


def test_an_edit_that_changes_more_is_found_out() -> None:
    def careless(tables: Any, kit: bool) -> None:
        tables["a"] = 2
        if kit:
            tables["b"] = 3

    with pytest.raises(ConfigError, match="safely"):
        edited(b"a = 1\n", [careless], "f")


def test_a_drop_in_repeats_what_it_hides() -> None:
    below = replace(parse_storage_conf(FEDORA, "main"), mount_options=("nodev", "fsync=0"))
    conf = parse_storage_conf(done("# ours\n", replace(WANTED5, drop_in=True), below), "f")
    assert conf.image_stores == ("/usr/lib/containers/storage", "/var/lib/als/image-store")
    assert conf.layer_stores == ("/var/lib/als/store:ref",)
    assert conf.mount_options == ("nodev", "fsync=0", "metacopy=on")
    assert conf.driver == "", "the main file names it"


def test_a_drop_in_is_not_needed_where_all_is_said_below() -> None:
    below = parse_storage_conf(done(FEDORA, WANTED5), "main")
    assert storage_edits(b"", "f", replace(WANTED5, drop_in=True), "overlay", below) == []


MOUNTOPT = Edit(Kind.OPTION, ("storage", "options", "overlay", "mountopt"), "nodev", "nodev,metacopy=on")


def test_undo_takes_only_our_option_out_of_changed_ones() -> None:
    text = '[storage.options.overlay]\nmountopt = "nodev,metacopy=on,fsync=0"\n'
    assert revert(text.encode(), [MOUNTOPT], "f") == b'[storage.options.overlay]\nmountopt = "nodev,fsync=0"\n'


SEALED = replace(WANTED, verity=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "nodev,metacopy=on,verity=require"),
        ('mountopt = "nodev,metacopy=on"', "nodev,metacopy=on,verity=require"),
        ('mountopt = "verity=on,metacopy=on,volatile"', "metacopy=on,volatile,verity=require"),
        ('mountopt = "verity=require,metacopy=on"', "verity=require,metacopy=on"),
    ],
)
def test_where_only_sealed_files_are_served_podman_is_to_open_no_others(line: str, expected: str) -> None:
    text = f'[storage]\ndriver = "overlay"\n[storage.options.overlay]\n{line}\n'.encode()
    edits = storage_edits(text, "f", SEALED, "overlay")
    after = perform(text, edits, "f")
    assert ",".join(parse_storage_conf(after.decode(), "f").mount_options) == expected
    assert storage_edits(after, "f", SEALED, "overlay") == []
    undone = parse_storage_conf(revert(after, edits, "f").decode(), "f")
    assert undone == parse_storage_conf(text.decode(), "f")


def test_undo_leaves_metacopy_where_only_verity_came_from_us() -> None:
    edit = replace(MOUNTOPT, old="nodev,metacopy=on", new="nodev,metacopy=on,verity=require")
    text = '[storage.options.overlay]\nmountopt = "nodev,metacopy=on,verity=require,fsync=0"\n'
    expected = b'[storage.options.overlay]\nmountopt = "nodev,metacopy=on,fsync=0"\n'
    assert revert(text.encode(), [edit], "f") == expected


def test_undo_leaves_what_somebody_took_away() -> None:
    for text in (b"", b"[storage]\n", b'[storage.options.overlay]\nmountopt = "nodev"\n'):
        assert revert(text, [MOUNTOPT], "f") == text


def test_undo_refuses_what_somebody_set_otherwise() -> None:
    edit = Edit(Kind.VALUE, ("storage", "driver"), None, "overlay")
    with pytest.raises(ConfigError, match=r"storage\.driver was changed to 'vfs'"):
        revert(b'[storage]\ndriver = "vfs"\n', [edit], "f")


KEYS = {
    "storage": ['driver = "overlay"', "driver = 'overlay' # chosen", 'graphroot = "/g"', "transient_store = false", "# note"],
    "storage.options": [
        'size = "10G"',
        'additionalimagestores = ["/a", "/var/lib/als/image-store"]',
        "additionalimagestores = [\n  '/a', # one\n  '/b'\n]",
        "additionallayerstores = []",
        'mountopt = "nodev"',
        "# remap-user = containers",
    ],
    "storage.options.overlay": ['mountopt = "metacopy=off"', 'mountopt = ""', "# mountopt", 'force_mask = "700"'],
    "storage.options.vfs": ['ignore_chown_errors = "true"'],
    "other": ["a = [1, {b = 2}]", 'text = """\n[storage]\n"""'],
}


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, bool]:
    """Tables in any order, each with some of its lines, no key twice; and whether the order is the usual one."""
    parts = []
    names = draw(st.lists(st.sampled_from(sorted(KEYS)), unique=True))
    for name in names:
        lines: dict[str, str] = {}
        for line in draw(st.lists(st.sampled_from(KEYS[name]), max_size=4)):
            lines.setdefault(line.partition(" ")[0] if not line.startswith("#") else line, line)
        parts.append("\n".join([f"[{name}]", *lines.values(), *draw(st.sampled_from([[], [""], ["", "# end", ""]]))]))
    text = draw(st.sampled_from(["", "# head\n\n"])) + "\n".join(parts) + draw(st.sampled_from(["", "\n"]))
    return text, names == sorted(names)


@settings(max_examples=150, deadline=None)
@given(drawn=texts(), wanted=st.sampled_from([WANTED, WANTED5]))
def test_any_shape(drawn: tuple[str, bool], wanted: Any) -> None:
    text, usual = drawn
    try:
        after = check(text, wanted)
    except ConfigError as error:
        # tomlkit loses its way among tables that are opened again and again. That is said, and nothing is written.
        assert "edited safely" in error.what
        assert not usual
        return
    edits = storage_edits(text.encode(), "f", wanted, "overlay")
    try:
        back = revert(after.encode(), edits, "f").decode()
    except ConfigError:
        assert not usual
        return
    before, again = (parse_storage_conf(each, "f") for each in (text, back))
    # What was taken out comes back at the end of its list.
    assert replace(again, image_stores=()) == replace(before, image_stores=())
    assert sorted(again.image_stores) == sorted(before.image_stores)
