"""Một Cửa on Kubernetes: what `make kind-up`, `make k8s-up`, `make redeploy` and their kin call."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dev import demo
from dev.cluster import credentials, kind, rollout
from dev.cluster.forward import INSIGHT, PUBLIC, SANDBOX, forward, present
from dev.cluster.rollout import KIND_OVERLAY, SECONDS, Options
from dev.cluster.waiting import NotReady
from dev.options import Problem
from dev.person import Surprise
from dev.run import ACCOUNTS, PASSWORD

Run = Callable[[Options, argparse.Namespace], int]


def main(argv: list[str]) -> int:
    """Exit codes: 0 done, 1 the cluster did not do it, 2 something to put right first, 130 Ctrl-C."""
    arguments = parser().parse_args(argv)
    options = Options(
        overlay=Path(arguments.overlay).resolve(),
        namespace=arguments.namespace,
        context=arguments.context,
        registry=arguments.registry,
        filter=arguments.filter,
        standin=arguments.standin,
        confirmed=arguments.confirm == "yes",
        seconds=arguments.patience,
    )
    try:
        run: Run = arguments.run
        return run(options, arguments)
    except (NotReady, Surprise) as failure:
        print(f"{arguments.command}: {failure}", file=sys.stderr)
        return 1
    except Problem as problem:
        print(f"{arguments.command}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The commands and their options. What the Makefile passes on comes from the environment."""
    environ = os.environ
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--namespace", default=environ.get("NAMESPACE") or "motcua")
    common.add_argument(
        "--context", default=environ.get("CONTEXT", ""), help="default: kubectl's current one"
    )
    common.add_argument("--overlay", default=environ.get("OVERLAY") or str(KIND_OVERLAY), metavar="FOLDER")
    common.add_argument(
        "--registry",
        default=environ.get("REGISTRY", ""),
        help="where to push our images, such as registry.example.vn/motcua; default: the cluster shares this "
        "machine's engine, or is kind's",
    )
    common.add_argument(
        "--filter",
        default=environ.get("FILTER", ""),
        metavar="COMMAND",
        help="every manifest goes through this command before it is applied",
    )
    common.add_argument(
        "--standin",
        action="store_true",
        default=bool(environ.get("STANDIN")),
        help="documents are in the stand-in",
    )
    common.add_argument(
        "--confirm", default=environ.get("CONFIRM", ""), help="`yes`: the current context is meant"
    )
    common.add_argument(
        "--patience", type=float, default=SECONDS, metavar="SECONDS", help="until all is ready"
    )

    made = argparse.ArgumentParser(prog="python -m dev.cluster", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Run, help: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, parents=[common], help=help, description=help)
        one.set_defaults(run=run)
        return one

    one = command("secrets", _secrets, "make the Secrets that are not there yet; what is there is kept")
    one.add_argument("--print", action="store_true", help="write new ones to standard output instead")
    command("up", _up, "build, make Secrets, apply the overlay, wait, load the catalogue")
    command("kind-up", _kind_up, "the same on a kind cluster, which is made when it is not there")
    command("forward", _forward, "hold the addresses of an installation on this machine until Ctrl-C")
    command("demo", _demo, "play the whole journey there")
    one = command("redeploy", _redeploy, "build, and replace these services only")
    one.add_argument("services", nargs="+", metavar="SERVICE")
    command("down", _down, "delete the namespace with all its data")
    command("kind-down", _kind_down, "delete the kind cluster")
    return made


def _secrets(options: Options, arguments: argparse.Namespace) -> int:
    if arguments.print:
        whole = credentials.secrets(standin=options.standin)
        items = [credentials.manifest(name, options.namespace, values) for name, values in whole.items()]
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2))
        return 0
    rollout.confirm(options, "make Secrets in")
    for line in credentials.ensure(options.kubectl, standin=options.standin):
        print(line)
    return 0


def _up(options: Options, arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    rollout.up(options)
    where = f" CONTEXT={options.context}" if options.context else ""
    print(banner(options, f"make k8s-forward{where}"))
    print(f"\nready in {time.monotonic() - began:.0f} s")
    return 0


def _kind_up(options: Options, arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    kind.up(options.console)
    rollout.up(replace(options, context=kind.CONTEXT))
    print(banner(options, "make kind-forward"))
    print(f"\nready in {time.monotonic() - began:.0f} s")
    return 0


def banner(options: Options, command: str) -> str:
    """How a person gets in: the addresses that `command` opens, and demo accounts where there are some."""
    doors = present(options.kubectl, (*PUBLIC, *INSIGHT))
    lines = ["", f"  `{command}` opens, until Ctrl-C:", *(str(door) for door in doors)]
    if SANDBOX in doors:  # only development has it, and the accounts
        lines += [
            "",
            f"  demo accounts, password {PASSWORD}",
            *(f"  {name:<13} {who}" for name, who in ACCOUNTS),
        ]
    return "\n".join(lines)


def _forward(options: Options, arguments: argparse.Namespace) -> int:
    options.kubectl.current_context()
    doors = present(options.kubectl, (*PUBLIC, *INSIGHT))
    if not doors:
        raise Problem(f"nothing of ours is in namespace {options.namespace}: `make k8s-up` first")
    with forward(options.kubectl, doors):
        print("\n".join(str(door) for door in doors))
        print("ready, Ctrl-C ends it", flush=True)
        signal.pause()
    return 0


def _demo(options: Options, arguments: argparse.Namespace) -> int:
    options.kubectl.current_context()
    with forward(options.kubectl) as where:
        return asyncio.run(demo.tell(options.console, where))


def _redeploy(options: Options, arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    rollout.redeploy(options, arguments.services)
    print(f"done in {time.monotonic() - began:.0f} s")
    return 0


def _down(options: Options, arguments: argparse.Namespace) -> int:
    rollout.down(options)
    return 0


def _kind_down(options: Options, arguments: argparse.Namespace) -> int:
    kind.down(options.console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
