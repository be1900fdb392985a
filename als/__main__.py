"""``python -m als`` is ``als``."""

from als.cli.main import main

if __name__ == "__main__":
    main()
