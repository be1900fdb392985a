"""Manual pages: one for every command and one for the settings, without a complaint of the formatter."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import click
import pytest

from als.cli.main import cli
from als.config import Config, parse_config
from tests.docs import manual
from tests.harness.system import run

man = manual.load()


def test_every_command_and_setting_has_its_place() -> None:
    pages = man.pages()
    verbs = cli.list_commands(click.Context(cli))
    assert set(pages) == {"als.1", "als.toml.5", *(f"als-{verb}.1" for verb in verbs)}
    for verb in verbs:
        assert f"als\\-{verb}(1)" in pages["als.1"]
    for field in dataclasses.fields(Config):
        assert f"\\fB{field.name} =" in pages["als.toml.5"].replace("\\-", "-")


def test_the_defaults_are_the_programs() -> None:
    text = "\n".join(f"{each.name} = {each.default}" for each in man.settings())
    assert parse_config(text) == Config()
    assert all(len(each.text) > 20 for each in man.settings())


def test_options_are_those_of_the_help() -> None:
    page = man.pages()["als-wait.1"].replace("\\-", "-")
    assert "--no-fill" in page
    assert "Only wait, also where the background fill is off." in page
    assert "IMAGE" in page


@pytest.mark.parametrize("text", [".SH not a section", "'quoted", "back\\slash", "a-b", "`code` and ``more``"])
def test_text_is_no_markup(text: str) -> None:
    made = man.roff(text)
    assert not made.startswith((".", "'"))
    assert "`" not in made


def test_pages_are_written_and_formatted(tmp_path: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    root = manual.SCRIPT.parents[2]
    run(sys.executable, manual.SCRIPT, tmp_path, env={"PYTHONPATH": str(root)})
    written = sorted(tmp_path.glob("man?/*"))
    assert [path.name for path in written] == sorted(man.pages(), key=lambda name: (name[-1], name))
    for path in written:
        done = run(groff, "-man", "-Tutf8", "-ww", "-z", path)
        assert done.stderr == b"", path.name
    shown = run(groff, "-man", "-Tascii", tmp_path / "man1" / "als.1").stdout
    assert b"EXIT STATUS" in shown or b"E\bEX" in shown
