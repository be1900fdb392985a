"""What errno means, on errors that the kernel really gave."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from als.native.refusal import Refusal, refusal


def refused(path: Path) -> Refusal:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        return refusal(error)
    raise AssertionError(f"{path} was opened")


def test_errors_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "missing") is Refusal.MISSING
    assert refused(tmp_path / "file") is Refusal.MISSING
    assert refused(tmp_path / ("x" * 300)) is Refusal.OTHER


def test_what_a_store_has_to_tell_apart() -> None:
    meanings = {number: refusal(OSError(number, "")) for number in (errno.ENOSPC, errno.EDQUOT, errno.EMLINK, errno.EXDEV)}
    assert list(meanings.values()) == [Refusal.NO_SPACE, Refusal.NO_SPACE, Refusal.TOO_MANY_LINKS, Refusal.OTHER_DEVICE]


def test_an_error_without_a_number() -> None:
    assert refusal(OSError("no number")) is Refusal.OTHER
