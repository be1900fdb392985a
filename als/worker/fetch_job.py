"""The fetch worker: asks registries on behalf of the privileged side, for one image.

Requests arrive on a SOCK_SEQPACKET socket, each with a stream socket of its own to answer on, so that many run at once
and none has to be told apart from another. An answer is HEADER, DATA..., END, or ERROR at any point.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  (loaded by name with the first host name, when a worker may not read files any more)
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from als.errors import AlsError, RegistryError
from als.model.digest import Digest
from als.registry.client import RegistryClient
from als.registry.endpoint import Endpoint
from als.registry.settings import Settings
from als.worker.frames import DATA, END, HEADER, FrameWriter

_MAX_REQUEST = 1 << 16
_PIECE = 1 << 18
_PROMPT_PIECE = 1 << 15
"""Somebody waits for the first bytes: to gather more of them would cost him milliseconds."""


def run(params: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Serve requests on ``fds[0]`` until the other side closes it.

    :param params: ``endpoints``: what to ask, in order (:class:`als.registry.endpoint.Endpoint`); ``settings``: how
        (:class:`als.registry.settings.Settings`), the defaults where it is missing.
    """
    settings = Settings.from_json(params["settings"]) if "settings" in params else None
    client = RegistryClient([Endpoint.from_json(endpoint) for endpoint in params["endpoints"]], settings=settings)
    threads: list[threading.Thread] = []
    with socket.socket(fileno=fds[0]) as requests:
        while True:
            request, received, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 1)
            if not request:
                break
            thread = threading.Thread(target=_answer, args=(client, json.loads(request), received[0]), daemon=True)
            thread.start()
            threads = [one for one in threads if one.is_alive()] + [thread]


def _answer(client: RegistryClient, request: Mapping[str, Any], fd: int) -> None:
    out = FrameWriter(fd)
    # A closed socket on the other side means that the answer is no longer wanted.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=fd):
        try:
            if request["op"] == "manifest":
                _manifest(client, str(request["name"]), out)
            else:
                _blob(client, request, out)
            out.write_json(END, {})
        except AlsError as error:
            out.write_error(error)
        except OSError as error:
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                raise
            out.write_error(RegistryError(f"{error.strerror or error}"))
        except MemoryError:
            out.write_error(RegistryError("the answer needs more memory than a worker may have"))
        out.flush()


def _manifest(client: RegistryClient, name: str, out: FrameWriter) -> None:
    raw = client.manifest(name)
    out.write_json(HEADER, {"media_type": raw.media_type})
    if raw.data:
        out.write(DATA, raw.data)


def _blob(client: RegistryClient, request: Mapping[str, Any], out: FrameWriter) -> None:
    digest = Digest.parse(str(request["digest"]))
    length, prompt = request["length"], bool(request.get("prompt"))
    with client.blob(digest, offset=int(request["offset"]), length=length, whole_instead=prompt) as stream:
        head = {"size": stream.size, "start": stream.start, "whole": stream.whole, "place": stream.place}
        out.write_json(HEADER, head)
        out.flush()
        while data := stream.read(_PROMPT_PIECE if prompt else _PIECE):
            out.write(DATA, data)
            if prompt:
                out.flush()
