"""``als setup``: tell podman or CRI-O of als, and take it back."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from als.cli.output import print_json
from als.config import Config
from als.errors import AlsError
from als.service import Service
from als.setup.act import Journal, apply, carry_out, plan_undo
from als.setup.clients import Client
from als.setup.journal import Undone
from als.setup.machine import Place, look
from als.setup.plan import Change, Plan, make_plan, unified_diff

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@click.command()
@click.option("--apply", "do_apply", is_flag=True, help="Write the files; what they held is kept beside them.")
@click.option("--undo", "do_undo", is_flag=True, help="Take back what --apply wrote.")
@click.option("--keep-metacopy", is_flag=True, help="With --undo: leave the mount option metacopy=on.")
@click.option("--client", type=click.Choice([client.value for client in Client]), help="For whom, where that is not clear.")
@click.option("--registry", "registries", multiple=True, metavar="HOST", help="A registry to mirror, in place of those known.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.pass_obj
def command(
    config: Config,
    do_apply: bool,
    do_undo: bool,
    keep_metacopy: bool,
    client: str | None,
    registries: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the lines of storage.conf and registries.conf that the installed podman or CRI-O needs.

    Nothing is written without --apply. --undo brings files back to what they were; out of a file that somebody changed
    since, only the lines of als are taken. podman 4 and CRI-O on one machine exclude each other: --client says who uses als.

    Registries that are mirrored: those of unqualified-search-registries and those of the images in the store, or those
    given by --registry. podman 4 needs no mirror.
    """
    if do_apply and do_undo:
        raise click.UsageError("--apply and --undo exclude each other")
    if keep_metacopy and not do_undo:
        raise click.UsageError("--keep-metacopy goes with --undo")
    _refuse_users()
    journal = Journal(config.root)
    if do_undo:
        undone = plan_undo(journal, keep_metacopy=keep_metacopy)
        if undone:
            carry_out(undone, journal)
        _show_undone(undone, as_json)
        return
    situation = look(config, Place(os.environ), client, registries)
    plan = make_plan(situation)
    if do_apply and plan.changes:
        # Makes the folders first: podman fails as a whole where storage.conf names one that is missing.
        with Service(config):
            backups = {record.path: record.backup for record in apply(plan.changes, journal)}
    else:
        backups = {}
    if as_json:
        print_json(
            {
                "client": situation.client.value,
                "applied": do_apply,
                "files": [
                    {**_facts(change), "backup": str(saved) if (saved := backups.get(change.path)) else None}
                    for change in plan.changes
                ],
                "notes": plan.notes,
            }
        )
        return
    _show(plan, do_apply)
    for path, saved in backups.items():
        click.echo(f"written: {path}" + (f" (before: {saved})" if saved else " (new)"))
    if do_apply and plan.changes:
        click.echo("next: `systemctl enable --now als` (or `als serve`), then `als doctor`")


def _refuse_users() -> None:
    if os.geteuid() == 0:
        return
    hint = "run it by sudo; als serves the podman of root, and a user's own ~/.config/containers/storage.conf must not name it"
    raise AlsError("only root can set als up", where="als setup", hint=hint)


def _facts(change: Change) -> dict[str, object]:
    return {
        "path": str(change.path),
        "new": change.before is None,
        "copy_of": change.source or None,
        "edits": [edit.as_json() for edit in change.edits],
        "diff": change.diff(),
    }


def _show(plan: Plan, applied: bool) -> None:
    for change in plan.changes:
        _echo_diff(change.diff())
    for note in plan.notes:
        click.echo(f"note: {note}", err=True)
    if not plan.changes:
        click.echo("everything is set up; `als doctor` checks that it works")
    elif not applied:
        click.echo("nothing is written yet: `als setup --apply` does it")


def _show_undone(undone: Sequence[Undone], as_json: bool) -> None:
    if as_json:
        print_json({"files": [{"path": str(step.record.path), "removed": step.after is None} for step in undone]})
        return
    for step in undone:
        _echo_diff(unified_diff(step.before, step.after, step.record.path))
        if step.record.backup is not None and step.record.backup.exists():
            click.echo(f"others had changed {step.record.path}; before als did, it was {step.record.backup}")
    if undone:
        click.echo("taken back; images of the store are not found any more, and containers made from them lack their files")
    else:
        click.echo("nothing to take back: `als setup --apply` was not used with this store")


def _echo_diff(text: str) -> None:
    for line in text.splitlines():
        click.secho(line, fg=_COLOURS.get(line[:1]))
