"""Runs the catalogue: `python -m catalog`."""

from catalog.bootstrap import build
from kit.service import main

if __name__ == "__main__":
    main(build)
