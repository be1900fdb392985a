"""The manual pages, made of what the program says of itself: ``python packaging/dev/man.py FOLDER``.

als(1) and one page for each command come from the help of the command line, als.toml(5) from the settings and docstrings of
als/config.py. There is no second text that could fall behind. Written as man(7); no tool beside Python and als's own
requirements is needed, so that a package can be built with what it needs to run.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from als import __version__, config
from als.cli.main import cli
from als.errors import ConfigError

PROGRAM = "als"
_CONSTANT = re.compile(r"``([A-Z_]+)``")


@dataclass(frozen=True)
class Setting:
    """One of als.toml."""

    name: str
    default: str
    """As TOML."""
    text: str


def settings() -> list[Setting]:
    """All of them, in the order of the file; lists of choices are spelt out."""
    tree = ast.parse(inspect.getsource(config))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config").body
    texts: dict[str, str] = {}
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            assert isinstance(after.value, ast.Constant)
            texts[node.target.id] = _CONSTANT.sub(_choices, " ".join(str(after.value.value).split()))
    default = config.Config()
    fields = dataclasses.fields(config.Config)
    return [Setting(each.name, _written(each.name, getattr(default, each.name)), texts[each.name]) for each in fields]


def _choices(match: re.Match[str]) -> str:
    return ", ".join(f'"{choice}"' for choice in getattr(config, match[1]))


def _written(name: str, value: object) -> str:
    """A default as the file has it: where nothing is no value, it is called "auto" there."""
    text = _toml(value)
    try:
        config.parse_config(f"{name} = {text}")
    except ConfigError:
        return _toml("auto")
    return text


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:g}"
        case tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return f'"{value}"'


# -- man(7)


def roff(text: str) -> str:
    """Plain text as roff; ``code`` and `code` become bold."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = re.sub(r"``?([^`]+)``?", r"\\fB\1\\fR", escaped)
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


def header(name: str, section: int) -> str:
    return f'.TH "{name.upper()}" {section} "" "als {__version__}" "Additional Layer Store"'


def section(title: str) -> str:
    return f".SH {title}"


def item(term: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{roff(term)}\\fR"
    yield roff(text)


def paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
        if number:
            yield ".PP"
        yield roff(" ".join(paragraph.replace("\b", "").split()))


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        # Arguments have none: newer versions of click list them nevertheless.
        if record is not None and record[1]:
            yield from item(record[0], record[1])


def commands() -> list[tuple[str, click.Command]]:
    """Every verb."""
    context = click.Context(cli, info_name=PROGRAM)
    return [(name, found) for name in cli.list_commands(context) if (found := cli.get_command(context, name)) is not None]


def main_page() -> str:
    """als(1)."""
    context = click.Context(cli, info_name=PROGRAM)
    about, *more = re.split(r"\n\s*\n", inspect.cleandoc(cli.help or ""))
    status = next(text for text in more if text.startswith("Exit status:"))
    lines = [header(PROGRAM, 1), section("NAME"), f"{PROGRAM} \\- {roff(_summary(about))}", section("SYNOPSIS")]
    lines.append("\\fBals\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]")
    lines += [section("DESCRIPTION"), *paragraphs("\n\n".join([about, *(text for text in more if text is not status)]))]
    lines += [section("OPTIONS"), *options(cli, context), section("COMMANDS")]
    for name, command in commands():
        lines += item(f"als {name}", f"{command.get_short_help_str(400)} See {PROGRAM}-{name}(1).")
    lines += [section("EXIT STATUS"), *paragraphs(status.removeprefix("Exit status:").strip())]
    lines += [section("FILES")]
    for path, text in (
        (str(config.DEFAULT_FILE), "Settings, see als.toml(5)."),
        ("/var/lib/als", "The store: ROOT."),
        ("/run/als", "Sockets and locks: RUN. als.sock serves the commands, metrics.sock monitoring; both are root's."),
        ("/etc/containers/storage.conf", "Where clients are told of the store; `als setup` writes it."),
        ("/etc/containers/registries.conf", "Registries, their mirrors, and als's own mirror."),
    ):
        lines += item(path, text)
    others = [f"{PROGRAM}-{name}(1)" for name, _ in commands()]
    lines += [section("SEE ALSO"), roff(", ".join([*others, "als.toml(5)", "containers-storage.conf(5)", "podman(1)"]))]
    return "\n".join(lines) + "\n"


def command_page(name: str, command: click.Command) -> str:
    """als-NAME(1)."""
    full = f"{PROGRAM}-{name}"
    context = click.Context(command, info_name=f"{PROGRAM} {name}", parent=None)
    lines = [header(full, 1), section("NAME"), f"{roff(full)} \\- {roff(_summary(command.get_short_help_str(400)))}"]
    usage = " ".join(command.collect_usage_pieces(context))
    lines += [section("SYNOPSIS"), f"\\fB{PROGRAM}\\fR [\\fIGLOBAL OPTIONS\\fR] \\fB{name}\\fR {roff(usage)}"]
    lines += [section("DESCRIPTION"), *paragraphs(command.help or "")]
    lines += [section("OPTIONS"), *options(command, context)]
    lines += [section("SEE ALSO"), f"{PROGRAM}(1), als.toml(5)"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """als.toml(5)."""
    lines = [header("als.toml", 5), section("NAME"), "als.toml \\- settings of als", section("SYNOPSIS")]
    lines += [f"\\fI{roff(str(config.DEFAULT_FILE))}\\fR", section("DESCRIPTION")]
    text = """A TOML file; every setting is optional. An unknown one, or a value out of range, is an error. Options of the
    command line win over the file. After a change, restart the daemon.

    Registries, mirrors, certificates and credentials are those of containers/*: containers-registries.conf(5),
    containers-certs.d(5), containers-auth.json(5)."""
    lines += [*paragraphs(text), section("SETTINGS")]
    for each in settings():
        lines += item(f"{each.name} = {each.default}", each.text)
    lines += [section("SEE ALSO"), f"{PROGRAM}(1)"]
    return "\n".join(lines) + "\n"


def _summary(text: str) -> str:
    first = " ".join(text.split("\n\n")[0].split()).rstrip(".")
    return first[:1].lower() + first[1:]


def pages() -> dict[str, str]:
    """All pages, by file name."""
    made = {f"{PROGRAM}.1": main_page(), "als.toml.5": settings_page()}
    return made | {f"{PROGRAM}-{name}.1": command_page(name, command) for name, command in commands()}


def main(folder: str) -> None:
    """Write them all into `folder`/man1 and `folder`/man5."""
    for name, text in pages().items():
        path = Path(folder) / f"man{name[-1]}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: man.py FOLDER")
    main(sys.argv[1])
