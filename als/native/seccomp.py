"""seccomp(2): filters of system calls, as small programs that the kernel runs for each (classic BPF).

A filter is made from names and decides in this order: another architecture's calls end the process; numbers that came after
the filter was thought of do not exist (ENOSYS); then each name that was given; then what holds for all others.
Facts: Documentation/userspace-api/seccomp_filter.rst and include/uapi/linux/{filter,seccomp}.h of the kernel.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Collection

try:
    from als._seccomp import ffi, lib
except ImportError as error:
    raise ImportError(
        "the extension als._seccomp is not built; in a checkout run `pip install -e .` (needs gcc, python3-dev, linux-libc-dev)"
    ) from error

ALLOW = 0x7FFF0000
"""SECCOMP_RET_ALLOW."""
KILL_PROCESS = 0x80000000
"""SECCOMP_RET_KILL_PROCESS."""
_ERRNO = 0x00050000
"""SECCOMP_RET_ERRNO; its low half is the errno."""
REFUSE = _ERRNO | errno.EPERM
"""The call fails with EPERM."""

_INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter: code, jt, jf, k."""
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: the accumulator becomes 32 bits of struct seccomp_data
_RETURN = 0x06  # BPF_RET | BPF_K
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_IF_BITS = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data; an argument has 8 bytes."""


def syscall_number(name: str) -> int | None:
    """The number of a system call; None: this architecture, or the headers that als was built with, have none of that name.

    Those that cffi_build/seccomp.py names are known.
    """
    number = lib.als_syscall(name.encode("ascii"))
    return number if number >= 0 else None


def make_filter(
    *, allowed: Collection[str] = (), refused: Collection[str] = (), otherwise: int, families: Collection[int] | None = None
) -> bytes:
    """A filter's program.

    clone(2), where it is allowed, makes threads, and neither processes nor namespaces; clone3(2), whose flags a filter cannot
    see, is said not to exist: libraries then use the former.

    :param allowed: names that may be called.
    :param refused: names that fail with EPERM.
    :param otherwise: the decision on all others, ``ALLOW`` or ``REFUSE``.
    :param families: of these alone sockets may be made; None: socket(2) is as any other call.
    """
    code = [_instruction(_LOAD, _ARCHITECTURE), _instruction(_IF_EQUAL, lib.ALS_AUDIT_ARCH, yes=1)]
    code += [_decide(KILL_PROCESS), _instruction(_LOAD, _NUMBER)]
    code += [_instruction(_IF_GREATER, lib.ALS_LAST_KNOWN, no=1), _decide(_ERRNO | errno.ENOSYS)]
    code += _on("clone3", [_decide(_ERRNO | errno.ENOSYS)])
    if families is not None:
        code += _on("socket", _socket(families))
    if "clone" not in refused and ("clone" in allowed or otherwise == ALLOW):
        code += _on("clone", _clone())
    for names, decision in ((refused, REFUSE), (allowed, ALLOW)):
        for name in sorted(names):
            code += _on(name, [_decide(decision)])
    return b"".join([*code, _decide(otherwise)])


def install(program: bytes) -> None:
    """Have the kernel run a filter for this thread and all that it starts. Cannot be undone; no-new-privs must be set.

    :raises OSError: the kernel has no seccomp (EINVAL), or no-new-privs is not set (EACCES).
    """
    if lib.als_seccomp_filter(program, len(program)) < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """:param yes, no: how many instructions are left out, as a condition holds or does not."""
    return _INSTRUCTION.pack(code, yes, no, value & 0xFFFFFFFF)


def _decide(decision: int) -> bytes:
    return _instruction(_RETURN, decision)


def _on(name: str, body: list[bytes]) -> list[bytes]:
    """`body`, which ends in a decision, for one call; the accumulator has its number."""
    number = syscall_number(name)
    return [] if number is None else [_instruction(_IF_EQUAL, number, no=len(body)), *body]


def _argument(position: int) -> bytes:
    """Load an argument's low half."""
    return _instruction(_LOAD, _ARGUMENTS + 8 * position + (4 if sys.byteorder == "big" else 0))


def _clone() -> list[bytes]:
    namespaces = _instruction(_IF_BITS, lib.ALS_CLONE_NAMESPACES, yes=1)
    threads = _instruction(_IF_BITS, lib.ALS_CLONE_THREAD, yes=1)
    return [_argument(lib.ALS_CLONE_FLAGS), namespaces, threads, _decide(REFUSE), _decide(ALLOW)]


def _socket(families: Collection[int]) -> list[bytes]:
    tests = [part for family in sorted(families) for part in (_instruction(_IF_EQUAL, family, no=1), _decide(ALLOW))]
    return [_argument(0), *tests, _decide(_ERRNO | errno.EAFNOSUPPORT)]
