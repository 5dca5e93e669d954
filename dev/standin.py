"""Runs nx-27017, the document store's stand-in, without its log line for every command."""

import logging

from nx_27017.nx_27017 import main

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    main()
