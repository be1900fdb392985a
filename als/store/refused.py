"""What the file system under the store refuses, in words for the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from als.errors import StoreError, StoreFull
from als.native.refusal import Refusal, refusal


@contextlib.contextmanager
def store_errors(where: Path) -> Iterator[None]:
    """Turn what the file system says into what the user needs to know."""
    try:
        yield
    except OSError as error:
        if refusal(error) is Refusal.NO_SPACE:
            raise StoreFull(
                "no space left for the store", where=str(where), hint="make room, or remove images with `als rm`"
            ) from error
        raise StoreError(f"the store cannot be written: {error.strerror}", where=str(error.filename or where)) from error
