"""What clients see of an image store: its list, and the folders of the layers in it. Both change at once.

A client looks into layers.json for a layer. Where it is not listed the client makes it itself, and takes a folder of that
name in *any* of its stores for its own: it then writes into ours, and what it makes can be neither mounted nor removed. And
where a layer is listed but has no folder, containers on it do not start. So there must be no moment (at which ``als`` might
be killed, or a client look) when a layer has one of the two without the other, neither when it comes nor when it goes. Two
renames cannot do that; one can::

    state                       -> states/<random>
    states/<random>/layers.json
    states/<random>/<chain>     -> ../../chains/<home>      for layers that appear with this list
    states/<random>/<chain>.<home>      likewise, for those that vanish with the next one
    overlay-layers/layers.json  -> ../state/layers.json
    overlay/<chain>             -> ../state/<chain>         until it has appeared, and then
                                -> ../chains/<home>         until it is about to vanish, and then
                                -> ../state/<chain>.<home>
    chains/<chain>/             a layer's folder; nobody knows of it before it has appeared

A client that looked for a layer before it appeared, and makes it after that, is in time to take our place for it all the same:
it removes the link in ``overlay`` and makes a folder there. Nothing can keep it from that, for between the two it holds no lock
that we know of. What it made is of no use to it, since it looks for it in its own store; it makes way, into the quarantine,
when the layer leaves the list, as it does to be published again by ``als fsck --repair``.

`home` is the layer itself, or the one in whose folder it lies. The rename of ``state`` is the moment; what ``overlay`` has
for a layer leads nowhere before it has appeared and after it has vanished, which to a client is as if it were not there.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from als.store.atomic import sync_directory, write_atomically
from als.store.closed import make_closed
from als.store.quarantine import quarantine

_STATE = "../state/{}"
_CHAIN = "../chains/{}"
_STAGING = ".link-"
_LEAVING = "."
"""Between a chain ID and its home, neither of which has one."""


class Appearance:
    """The list and the folders of one image store. Whoever changes something holds the list's lock.

    :param quarantined: the quarantine, where folders go that clients have made in ``overlay``.
    """

    def __init__(self, root: Path, quarantined: Path) -> None:
        self._root = root
        self._quarantine = quarantined
        self._state = root / "state"
        self._states = root / "states"
        self._overlay = root / "overlay"
        self._chains = root / "chains"
        self.list_file = root / "overlay-layers" / "layers.json"

    def create(self) -> None:
        """Make what is missing; an empty list where there is none."""
        for folder in (self._overlay, self._chains, self._states, self.list_file.parent):
            make_closed(folder)
        if not (self._state / self.list_file.name).exists():
            self.change(b"[]", {})
        if not self.list_file.is_symlink():
            self._lead(self.list_file, _STATE.format(self.list_file.name))
            sync_directory(self.list_file.parent)

    def folder(self, home: str) -> Path:
        """Where a layer lies that has a folder of its own."""
        return self._chains / home

    def home(self, chain_id: str) -> str:
        """The layer in whose folder one lies that clients can see, or could until it vanished."""
        found = Path(os.path.realpath(self._overlay / chain_id))
        return found.name if found.parent.name == self._chains.name else self.former_home(chain_id) or chain_id

    def former_home(self, chain_id: str) -> str:
        """The same of a layer that has vanished, or is about to; "" for others."""
        path = self._overlay / chain_id
        return path.readlink().name.partition(_LEAVING)[2] if path.is_symlink() else ""

    def announce(self, chain_id: str) -> None:
        """Give a layer the place where it will appear."""
        path = self._overlay / chain_id
        if not path.is_symlink():
            path.symlink_to(_STATE.format(chain_id))

    def change(self, data: bytes, appearing: Mapping[str, str]) -> None:
        """Replace the list, and have announced layers appear; durable when it returns.

        :param appearing: their homes by chain ID. All that belongs to them has been synced. Those that have vanished need not
            be announced.
        """
        self._settle()
        self._switch(data, {(self._overlay / chain_id).readlink().name: home for chain_id, home in appearing.items()})
        self._settle()

    def withdraw(self, data: bytes, leaving: Mapping[str, str]) -> None:
        """Replace the list, and have layers vanish; durable when it returns. All that belongs to them is left, so that they can
        appear again.

        :param leaving: their homes by chain ID.
        """
        self._settle()
        names = {f"{chain_id}{_LEAVING}{home}": home for chain_id, home in leaving.items()}
        self._switch((self._state / self.list_file.name).read_bytes(), names)
        for chain_id, name in zip(leaving, names, strict=True):
            self._make_way(chain_id)
            self._lead(self._overlay / chain_id, _STATE.format(name))
        self._switch(data, {})

    def _switch(self, data: bytes, links: Mapping[str, str]) -> None:
        """Have another state, with this list.

        :param links: homes, by the names that lead to them.
        """
        sync_directory(self._overlay)
        state = self._states / secrets.token_hex(8)
        state.mkdir(mode=0o700)
        for name, home in links.items():
            (state / name).symlink_to(f"../../{self._chains.name}/{home}")
        write_atomically(state / self.list_file.name, data, mode=0o644)
        sync_directory(self._states)
        self._lead(self._state, f"{self._states.name}/{state.name}")
        sync_directory(self._root)
        for path in self._states.iterdir():
            if path.name != state.name:
                shutil.rmtree(path)
        for path in self._root.glob(f"{_STAGING}*"):
            path.unlink()

    def hide(self, chain_id: str) -> None:
        """Let clients no longer see a layer's folder."""
        self._make_way(chain_id)
        path = self._overlay / chain_id
        if path.is_symlink():
            path.unlink()

    def is_taken(self, chain_id: str) -> bool:
        """Whether a client has made a folder in the place of a layer's."""
        path = self._overlay / chain_id
        return path.is_dir() and not path.is_symlink()

    def _make_way(self, chain_id: str) -> None:
        if self.is_taken(chain_id):
            quarantine(self._quarantine, self._overlay / chain_id, "client")

    def remove(self, chain_id: str) -> None:
        """Take away what there is of a layer, first where clients see it."""
        self.hide(chain_id)
        folder = self.folder(chain_id)
        if folder.exists():
            shutil.rmtree(folder)

    def found(self) -> set[str]:
        """Every layer of which there is a folder or a place for one."""
        return {name for name in os.listdir(self._overlay) if name != "l"} | set(os.listdir(self._chains))

    def _settle(self) -> None:
        """Let what clients can see no longer depend on the present state."""
        within = _STATE.format("")
        for name in os.listdir(self._overlay):
            path = self._overlay / name
            target = str(path.readlink()) if path.is_symlink() else ""
            seen = self._state / target.removeprefix(within)
            if target.startswith(within) and seen.is_symlink():
                self._lead(path, _CHAIN.format(seen.readlink().name))

    def _lead(self, path: Path, target: str) -> None:
        """Make a symlink, or let it lead elsewhere."""
        staging = self._root / f"{_STAGING}{secrets.token_hex(6)}"
        staging.symlink_to(target)
        staging.rename(path)
