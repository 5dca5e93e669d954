"""`python -m notify`."""

from kit.service import main
from notify.bootstrap import build

if __name__ == "__main__":
    main(build)
