"""`make dead`: the events that a consumer gave up on, in the NATS of the running stack (else NATS_URL).

make dead                        lists them
make dead ARGS="show 3"          one with its content
make dead ARGS="replay 3 4"      announces these again and takes them off the list (`replay all`: every one)
"""

import os
import sys

from dev.stack import data_folder, find
from kit import dead


def main() -> None:
    """Hands over to `python -m kit.dead`, which also runs where the services run."""
    running = find()
    if running:
        os.environ["NATS_URL"] = running.nats
    elif "NATS_URL" not in os.environ:
        where = f"{data_folder()} (DATA_DIR names another)"
        print(f"dead: no stack runs on {where}, and NATS_URL is not set", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = sys.argv[1:] or ["list"]
    dead.main()


if __name__ == "__main__":
    main()
