"""The settings: defaults, the file, the command line, and every way to get them wrong."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from als.config import Config, load_config, parse_config
from als.errors import ConfigError

PACKAGED = Path(__file__).parents[1] / "packaging" / "als.toml"


def test_defaults() -> None:
    config = parse_config("")
    assert config == Config()
    assert (config.root, config.run) == (Path("/var/lib/als"), Path("/run/als"))
    assert (config.layer_store, config.image_store4) == (Path("/var/lib/als/store"), Path("/var/lib/als/is4"))
    assert config.lookup_deadline == 30


def test_every_setting() -> None:
    text = 'root="/a"\nrun="/b"\nworker_user="nobody"\nlookup_deadline=2.5\nmax_workers=3\nlog_level="debug"\nclients=["/c"]\n'
    text += 'layouts=["composefs"]\nmirror_port=1\nmirror_users=["a", 5]\n'
    text += "lazy='always'\nbackground=false\nbackground_rate=7\nrecord_profiles=false\nmetrics_port=9\nverity='require'"
    text += "\nscrub_rate=8"
    assert parse_config(text) == Config(
        Path("/a"),
        Path("/b"),
        "nobody",
        2.5,
        3,
        "debug",
        (Path("/c"),),
        ("composefs",),
        1,
        "always",
        False,
        7,
        False,
        ("a", "5"),
        9,
        "require",
        8,
    )
    assert len(text.splitlines()) == len(dataclasses.fields(Config))


def test_the_packaged_file_shows_the_defaults() -> None:
    text = PACKAGED.read_text("utf-8")
    assert parse_config(text) == Config()
    shown = "\n".join(line[1:] for line in text.splitlines() if line.startswith("#") and not line.startswith("# "))
    assert set(tomllib.loads(shown)) == {field.name for field in dataclasses.fields(Config)}
    assert parse_config(shown) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rooot = '/a'", "unknown setting 'rooot'.*'root'"),
        ("max_worker = 1", "'max_workers'"),
        ("loglevel = 'info'", "'log_level'"),
        ("[registry]\nx = 1", "unknown setting 'registry'"),
        ("root = 'relative'", "not an absolute path"),
        ("root = 1", "root: 1"),
        ("run = true", "run: True"),
        ("worker_user = ''", "worker_user"),
        ("clients = ['relative']", "not a list of absolute paths"),
        ("clients = '/one'", "clients: '/one'"),
        ("lookup_deadline = 0", "between 0 and 3600"),
        ("lookup_deadline = nan", "between 0 and 3600"),
        ("lookup_deadline = true", "lookup_deadline"),
        ("lazy = 'sometimes'", "none of auto, always, never"),
        ("verity = 'on'", "none of off, prefer, require"),
        ("verity = true", "verity"),
        ("background = 1", "background"),
        ("background_rate = -1", "not a number of bytes"),
        ("max_workers = -1", "between 0 and 1024"),
        ("max_workers = 1.5", "max_workers"),
        ("log_level = 'loud'", "none of debug, info"),
        ("mirror_port = 65536", "between 0 and 65535"),
        ("mirror_port = true", "mirror_port: True"),
        ("metrics_port = -1", "between 0 and 65535"),
        ("record_profiles = 1", "record_profiles: 1"),
        ("background = 0", "background: 0"),
        ("background_rate = -1", "not a number of bytes per second"),
        ("background_rate = true", "background_rate: True"),
        ("mirror_users = 'root'", "mirror_users: 'root'"),
        ("mirror_users = ['']", "not a list of users"),
        ("mirror_users = [-1]", "not a list of users"),
        ("mirror_users = [true]", "not a list of users"),
        ("root = ", "not TOML"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(text, "the-file")
    assert "the-file" in str(caught.value)


def test_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "als.toml"
    file.write_text('root = "/from/file"\nlog_level = "error"\n')
    config = load_config(file, {"root": Path("/from/line"), "run": None})
    assert config == Config(root=Path("/from/line"), log_level="error")
    with pytest.raises(ConfigError, match="command line: root"):
        load_config(file, {"root": "relative"})


def test_a_file_that_was_named_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "missing")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "binary")


def test_worker_ids() -> None:
    assert Config(worker_user="nobody").worker_ids()[0] == 65534
    assert Config(worker_user="4242424").worker_ids() == (4242424, 4242424)
    assert 0 not in Config().worker_ids()
    with pytest.raises(ConfigError, match="no such user"):
        Config(worker_user="nobody-has-this-name").worker_ids()
    for root in ("root", "0"):
        with pytest.raises(ConfigError, match="must not run as root"):
            Config(worker_user=root).worker_ids()


def test_users_of_the_mirror() -> None:
    assert parse_config("mirror_users = ['root', 12345]").mirror_ids() == frozenset({0, 12345})
    with pytest.raises(ConfigError, match="no such user"):
        parse_config("mirror_users = ['nobody-of-that-name']").mirror_ids()
