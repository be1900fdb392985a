"""The one place where an error becomes an exit status; ``als --help`` and the manual list them.

0 success; 1 any other error; 2 wrong usage (click's own); 3 not found; 4 the registry cannot be reached or refuses; 5 the image
is malformed or cannot be served; 6 the store is full, damaged or locked; 7 the kernel lacks something; 130 interrupted.
"""

from __future__ import annotations

from als import errors

_CODES: tuple[tuple[type[errors.AlsError], int], ...] = (
    (errors.ConfigError, 2),
    (errors.BadReference, 2),
    (errors.NotFound, 3),
    (errors.RegistryError, 4),
    (errors.DeadlineExceeded, 4),
    (errors.PolicyDenied, 5),
    (errors.BadImage, 5),
    (errors.StoreError, 6),
    (errors.KernelError, 7),
)


def exit_code(error: errors.AlsError) -> int:
    """The exit status that tells of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)
