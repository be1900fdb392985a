"""``als doctor``: what keeps als from working here, each line with its remedy."""

from __future__ import annotations

import json
import os
import sys

import click

from als.config import Config
from als.doctor.checks import Finding, Level, diagnose, worst
from als.doctor.gather import gather

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.ERROR: "red"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: level, subject, what, remedy.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Check the kernel, the store's mounts, and podman's configuration.

    Each line says ok, warn or error, what was found, and what to do about it. The exit status is 1 if a line is an
    error, else 0.
    """
    config = context.find_object(Config) or Config()
    findings = diagnose(gather(config, os.environ))
    for finding in findings:
        click.echo(_json(finding) if as_json else _text(finding))
    if worst(findings) is Level.ERROR:
        sys.exit(1)


def _json(finding: Finding) -> str:
    fields = {"level": finding.level.value, "subject": finding.subject, "what": finding.what, "remedy": finding.remedy}
    return json.dumps(fields, ensure_ascii=False)


def _text(finding: Finding) -> str:
    level = click.style(f"{finding.level.value:5}", fg=_COLOURS[finding.level])
    remedy = f"\n      -> {finding.remedy}" if finding.remedy else ""
    return f"{level} {finding.subject}: {finding.what}{remedy}"
