"""SIGKILLs for a daemon that is kept (``als serve --keep``), at random moments: while it serves, and while it starts.

Never so often in a row that the keeper takes it for hopeless (:mod:`als.keeper.restarts`), which is another matter.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

from als.keeper.restarts import GIVE_UP, STEADY_SECONDS
from tests.harness.als import AlsDaemon
from tests.harness.system import wait_until

_LOADING_SECONDS = 3.0


def daemon_of(keeper: int) -> int:
    """The process that a keeper has started; 0: none just now."""
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text("ascii").split()
    return int(children[0]) if children else 0


class Killer:
    """Kills one daemon again and again.

    :param deadline: seconds within which it has to serve again.
    """

    def __init__(self, als: AlsDaemon, chance: random.Random, deadline: float) -> None:
        self.kills = 0
        self._als = als
        self._chance = chance
        self._deadline = deadline
        self._hurried = 0
        self._former = 0
        self._wait = threading.Event().wait

    def wait(self) -> None:
        """Wait for the moment of the next kill.

        :raises TimeoutError: the daemon is not started again in time.
        """
        self._former = self._als.serving_pid
        if self._hurried < GIVE_UP - 2 and self._chance.random() < 0.8:
            self._hurried += 1
            self._wait(self._chance.random())
        else:
            self._hurried = 0
            wait_until(self._als.serving, "the daemon serves", self._deadline)
            # The keeper has the next one made ready from then on: it is killed before, while and after that is done.
            self._wait(STEADY_SECONDS + self._chance.random() * _LOADING_SECONDS)
        wait_until(lambda: daemon_of(self._als.pid) != 0, "there is a daemon to kill", self._deadline)

    def kill(self) -> None:
        """Do it."""
        os.kill(daemon_of(self._als.pid), signal.SIGKILL)
        self.kills += 1

    def wait_replaced(self) -> None:
        """Wait until another daemon serves than before.

        :raises TimeoutError: none does in time.
        """
        self._als.replaced(self._former, self._deadline)
