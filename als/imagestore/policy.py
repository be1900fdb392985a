"""Which policy.json holds, and what it lets als list in the image store.

The file is found as containers/image finds it (``signature/policy_config.go``: defaultPolicyPathWithHomeDir), for root too:
``$HOME/.config/containers/policy.json``, else ``/etc/containers/policy.json``; no environment variable and no setting of
containers.conf names another. CRI-O's ``signature_policy`` does, so callers can name further files: an image is in one store
for all clients, and is listed only if each of them would take it.

Without any file podman and CRI-O refuse to pull at all. als does not: it works where neither is installed (yet). Whoever comes
to use the store without a policy gets its layers, and no image to run unasked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from als.errors import ConfigError
from als.model.policy import Listing, ListingVerdict, parse_policy
from als.model.reference import Reference, Transport

log = logging.getLogger(__name__)

_NAME = "containers/policy.json"


def policy_file(home: Path, root: Path = Path("/")) -> Path | None:
    """The policy that a user's podman would ask, or None where there is none.

    :param home: the user's.
    :param root: where the file system with ``/etc`` starts.
    """
    candidates = (home / ".config" / _NAME, root / "etc" / _NAME)
    return next((path for path in candidates if os.access(path, os.F_OK)), None)


def may_list(reference: Reference, home: Path, further: Sequence[Path] = (), *, root: Path = Path("/")) -> ListingVerdict:
    """Whether an image may be listed, or only its layers, or must not be pulled at all.

    The files are read anew each time: an administrator's word counts at once.

    :param home: whose policy counts: that of the user as whom als runs.
    :param further: the policies of other clients. They may forbid the listing, but not the pull: that is for the client to do.
    :param root: where the file system with ``/etc`` starts.
    :raises ConfigError: a file cannot be read or understood.
    """
    path = policy_file(home, root)
    if path is None:
        log.info("no policy.json: %s is not listed as an image, its layers are served", reference)
        verdict = ListingVerdict(Listing.LAYERS_ONLY, _NAME, "there is none")
    else:
        verdict = _ask(path, reference)
    for other in further:
        theirs = _ask(other, reference)
        if verdict.listing is Listing.LISTED and theirs.listing is not Listing.LISTED:
            verdict = ListingVerdict(Listing.LAYERS_ONLY, theirs.policy, theirs.reason)
    return verdict


def _ask(path: Path, reference: Reference) -> ListingVerdict:
    try:
        policy = parse_policy(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    local = "" if reference.transport is Transport.DOCKER else str(Path(reference.path).resolve())
    return policy.verdict(reference, local)
