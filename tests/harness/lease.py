"""What als holds for an hour because a client may not have written it down yet."""

from __future__ import annotations

import json
from pathlib import Path

from als.store.liveness import LEASE_SECONDS


def let_an_hour_pass(root: Path) -> None:
    """For all references and counts of a store."""
    for folder, name in (("refs", "renewed"), ("uses", "changed")):
        for path in (root / folder).glob("[!.]*.json"):
            record = json.loads(path.read_bytes())
            record[name]["seconds"] -= LEASE_SECONDS
            path.write_text(json.dumps(record))
