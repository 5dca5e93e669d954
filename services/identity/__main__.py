"""Runs identity: `python -m identity`."""

from identity.bootstrap import build
from kit.service import main

main(build)
