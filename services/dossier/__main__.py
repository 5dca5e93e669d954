"""`python -m dossier`."""

from dossier.bootstrap import build
from kit.service import main

main(build)
