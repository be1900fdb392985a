"""prctl(2): what a worker process gives up before it touches foreign bytes."""

from __future__ import annotations

import signal

from als.native.extension import check, lib


def set_no_new_privs() -> None:
    """PR_SET_NO_NEW_PRIVS: no execve of this thread or its children ever gains privileges. Cannot be undone."""
    check(lib.als_no_new_privs())


def set_dumpable(dumpable: bool) -> None:
    """PR_SET_DUMPABLE: whether this process dumps core and may be traced by others of its user.

    Changing the user ids sets it again, so call this last.
    """
    check(lib.als_set_dumpable(int(dumpable)))


def set_parent_death_signal(number: signal.Signals | None) -> None:
    """PR_SET_PDEATHSIG: the signal this process gets when the *thread* that forked it ends; None: no signal.

    Changing the user ids or gaining privileges by execve clears it. A parent that died before this call sends nothing,
    so compare ``os.getppid()`` afterwards with the parent that was expected.
    """
    check(lib.als_set_pdeathsig(0 if number is None else int(number)))
