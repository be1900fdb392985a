"""``als fsck``: is the store as als left it?"""

from __future__ import annotations

import click

from als.cli.exitcodes import exit_code
from als.cli.output import print_json
from als.config import Config
from als.errors import StoreDamaged
from als.service import Service
from als.service.affected import Affected
from als.service.fsck import Problem
from als.service.repair import Report, fsck


@click.command()
@click.option("--repair", is_flag=True, help="Relink what can be, quarantine what is damaged.")
@click.option("--deep", is_flag=True, help="Read every file and rebuild every layer's stream, too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def command(config: Config, repair: bool, deep: bool, as_json: bool) -> int:
    """Check that layers, files, images, references and what is published fit together.

    Of a file with another content it is said where it is used. With --repair, such files are replaced, from the registry of an
    image that holds them if need be. What is damaged beyond that help is moved to ROOT/quarantine and no longer published;
    pulling the image again heals it. The exit status is 6 if something is, or stays, wrong.
    """
    with Service(config) as service:
        report = fsck(service, repair=repair, deep=deep)
    if as_json:
        print_json(
            {"found": [_facts(report, p) for p in report.found], "remaining": [_facts(report, p) for p in report.remaining]}
        )
    else:
        for problem in report.found:
            if repair and problem not in report.remaining:
                click.echo(f"repaired  {problem.kind} {problem.name}: {problem.what}{_concerning(report, problem)}")
        for problem in report.remaining:
            click.echo(f"wrong     {problem.kind} {problem.name}: {problem.what}{_concerning(report, problem)}")
            click.echo(f"          -> {problem.remedy.value}")
        if not report.found:
            click.echo("nothing is wrong")
    return exit_code(StoreDamaged("")) if report.remaining else 0


def _concerning(report: Report, problem: Problem) -> str:
    """Lines that say of a damaged file where it is used."""
    concerned = report.affected.get(problem.sha256, Affected())
    lines = [f"file {name} of layer {diff_id}" for diff_id, name in concerned.files]
    lines += [f"image {name}" for name in concerned.images]
    lines += [f"used by {name}" for name in concerned.containers]
    return "".join(f"\n          {line}" for line in lines)


def _facts(report: Report, problem: Problem) -> dict[str, object]:
    concerned = report.affected.get(problem.sha256, Affected())
    return {
        "kind": problem.kind,
        "name": problem.name,
        "what": problem.what,
        "remedy": problem.remedy.value,
        "files": [{"layer": str(diff_id), "name": name} for diff_id, name in concerned.files],
        "images": list(concerned.images),
        "containers": list(concerned.containers),
    }
