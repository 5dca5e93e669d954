"""`make demo`: plays the main journey on the addresses given, the running stack, or one of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from dev import journey, stack
from dev.options import Problem, private
from dev.parts import Addresses, elsewhere
from dev.person import Surprise


def main(argv: list[str]) -> int:
    """0 when everything went as it should, 1 for a surprise, 2 for something to put right, 130 for Ctrl-C."""
    console = Console(highlight=False, soft_wrap=True)
    where = given(argv)
    try:
        return asyncio.run(demo(console, where))
    except Surprise as surprise:
        console.print(f"[bold red]surprise:[/] {escape(str(surprise))}")
        return 1
    except (Problem, stack.PartFailed) as problem:
        console.print(f"[bold red]{escape(str(problem))}[/]")
        return 2
    except KeyboardInterrupt:
        return 130


def given(argv: list[str]) -> Addresses | None:
    """The addresses that the arguments or the environment give; None without a gateway."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description=__doc__)
    for name, port in (("gateway", 8000), ("sandbox", 8090), ("mail", 8025)):
        url = os.environ.get(name.upper(), "")
        usual = "" if name == "gateway" else f"http://127.0.0.1:{port}"
        default = url if url.startswith("http") else usual  # a login sets MAIL to something else
        parser.add_argument(
            f"--{name}", default=default, metavar="URL", help=f"such as http://127.0.0.1:{port}"
        )
    found = parser.parse_args(argv)
    return elsewhere(found.gateway, found.sandbox, found.mail) if found.gateway else None


async def demo(console: Console, where: Addresses | None = None) -> int:
    """Plays there, else on the stack that runs, else on one of its own that it stops afterwards."""
    running = where or stack.find()
    if running is not None:
        console.print(f"on {'' if where else 'the running stack at '}{running.graphql}")
        return await tell(console, running)
    with tempfile.TemporaryDirectory(prefix="motcua-") as folder:
        console.print(
            f"no stack runs on {stack.data_folder()} (DATA_DIR names another); starting one for the demo"
        )
        async with stack.Stack(private(Path(folder), os.environ), console.print) as own:
            return await tell(console, own.addresses)


async def tell(console: Console, where: Addresses) -> int:
    """Prints each step as it ends."""

    def line(step: journey.Step) -> None:
        console.print(
            f"[dim]{step.seconds * 1000:6.0f} ms[/]  [bold]{escape(step.who)}[/] {escape(step.does)}\n"
            f"           [cyan]→ {escape(step.sees)}[/]"
        )

    diary = await journey.play(where, line)
    total = sum(step.seconds for step in diary.steps)
    console.print(f"[bold green]{len(diary.steps)} steps in {total:.1f} s, no surprise[/]")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
