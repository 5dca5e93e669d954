"""Runs nx-27017, the document store's stand-in, without its log line for every command."""

import argparse
import logging
import os
from pathlib import Path

from nx_27017.daemon import get_pid
from nx_27017.nx_27017 import main


def forget_own_pid() -> None:
    """Removes a pid file that names this very process: an earlier container left it, number 1 as well."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--pid-file", default="")
    path = parser.parse_known_args()[0].pid_file
    if path and get_pid(path) == os.getpid():
        Path(path).unlink()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    forget_own_pid()
    main()
