"""`python -m dev.cluster COMMAND`: see --help."""

from __future__ import annotations

import argparse
import json
import sys

from dev.cluster import credentials
from dev.cluster.kube import Kubectl
from dev.options import Problem


def main(argv: list[str]) -> int:
    """Exit codes: 0 done, 1 the cluster did not do it, 2 something to put right first, 130 Ctrl-C."""
    options = parser().parse_args(argv)
    try:
        return int(options.run(options))
    except Problem as problem:
        print(f"{options.command}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--namespace", default="motcua")
    common.add_argument("--context", default="", help="kubectl context; by default the current one")
    made = argparse.ArgumentParser(prog="python -m dev.cluster", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("secrets", parents=[common], help="make the Secrets that are not there yet")
    one.add_argument("--standin", action="store_true", help="documents are in the stand-in, without users")
    one.add_argument("--print", action="store_true", help="write new ones to standard output instead")
    one.set_defaults(run=_secrets)
    return made


def _secrets(options: argparse.Namespace) -> int:
    if options.print:
        whole = credentials.secrets(standin=options.standin)
        items = [credentials.manifest(name, options.namespace, values) for name, values in whole.items()]
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2))
        return 0
    for line in credentials.ensure(Kubectl(options.namespace, options.context), standin=options.standin):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
