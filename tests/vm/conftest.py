"""Which of these tests run when."""

from __future__ import annotations

import os

# It takes minutes in a machine without KVM, and what it shows the package's own machine (tests/packaging) needs as well.
collect_ignore = [] if os.environ.get("ALS_ALL_POINTS") else ["test_vm_full.py"]
