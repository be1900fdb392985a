"""A writer of images that never writes any."""

from __future__ import annotations

import sys
import time

from als.worker.__main__ import main

if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], {"image": lambda _params, _fds: time.sleep(600)})
