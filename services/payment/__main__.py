"""`python -m payment`: runs the service."""

from kit.service import main
from payment.bootstrap import build

if __name__ == "__main__":
    main(build)
