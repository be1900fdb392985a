"""What clients see of an image store: its list, and the folders of the layers in it. Both change at once.

A client looks into layers.json for a layer. Where it is not listed the client makes it itself, and takes a folder of that
name in *any* of its stores for its own: it then writes into ours, and what it makes can be neither mounted nor removed. And
where a layer is listed but has no folder, containers on it do not start. So there must be no moment (at which ``als`` might
be killed) when a layer has one of the two without the other. Two renames cannot do that; one can::

    state                       -> states/<random>
    states/<random>/layers.json
    states/<random>/<chain>     -> ../../chains/<home>      for layers that appear with this list
    overlay-layers/layers.json  -> ../state/layers.json
    overlay/<chain>             -> ../state/<chain>         until it has appeared, and then
                                -> ../chains/<home>
    chains/<chain>/             a layer's folder; nobody knows of it before it has appeared

`home` is the layer itself, or the one in whose folder it lies. The rename of ``state`` is the moment; what ``overlay`` has
for a layer leads nowhere before, which to a client is as if it were not there.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from als.store.atomic import sync_directory, write_atomically
from als.store.closed import make_closed

_STATE = "../state/{}"
_CHAIN = "../chains/{}"
_STAGING = ".link-"


class Appearance:
    """The list and the folders of one image store. Whoever changes something holds the list's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root
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
        """The layer in whose folder one lies that clients can see."""
        found = Path(os.path.realpath(self._overlay / chain_id))
        return found.name if found.parent.name == self._chains.name else chain_id

    def announce(self, chain_id: str) -> None:
        """Give a layer the place where it will appear."""
        path = self._overlay / chain_id
        if not path.is_symlink():
            path.symlink_to(_STATE.format(chain_id))

    def change(self, data: bytes, appearing: Mapping[str, str]) -> None:
        """Replace the list, and have announced layers appear; durable when it returns.

        :param appearing: their homes by chain ID. All that belongs to them has been synced.
        """
        if self._settle():
            sync_directory(self._overlay)
        state = self._states / secrets.token_hex(8)
        state.mkdir(mode=0o700)
        for chain_id, home in appearing.items():
            (state / chain_id).symlink_to(f"../../chains/{home}")
        write_atomically(state / self.list_file.name, data, mode=0o644)
        sync_directory(self._states)
        self._lead(self._state, f"{self._states.name}/{state.name}")
        sync_directory(self._root)
        self._settle()
        for path in self._states.iterdir():
            if path.name != state.name:
                shutil.rmtree(path)
        for path in self._root.glob(f"{_STAGING}*"):
            path.unlink()

    def hide(self, chain_id: str) -> None:
        """Let clients no longer see a layer's folder."""
        path = self._overlay / chain_id
        if path.is_symlink():
            path.unlink()

    def remove(self, chain_id: str) -> None:
        """Take away what there is of a layer, first where clients see it."""
        self.hide(chain_id)
        folder = self.folder(chain_id)
        if folder.exists():
            shutil.rmtree(folder)

    def found(self) -> set[str]:
        """Every layer of which there is a folder or a place for one."""
        return {name for name in os.listdir(self._overlay) if name != "l"} | set(os.listdir(self._chains))

    def _settle(self) -> bool:
        """Let what has appeared no longer depend on the present state; whether there was anything."""
        changed = False
        for name in os.listdir(self._overlay):
            path, seen = self._overlay / name, self._state / name
            if path.is_symlink() and seen.is_symlink() and str(path.readlink()) == _STATE.format(name):
                self._lead(path, _CHAIN.format(seen.readlink().name))
                changed = True
        return changed

    def _lead(self, path: Path, target: str) -> None:
        """Make a symlink, or let it lead elsewhere."""
        staging = self._root / f"{_STAGING}{secrets.token_hex(6)}"
        staging.symlink_to(target)
        staging.rename(path)
