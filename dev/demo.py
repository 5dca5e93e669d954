"""`make demo`: plays the main journey against the running stack, or against one of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from dev import journey, stack
from dev.options import Problem, private
from dev.parts import Addresses
from dev.person import Surprise


def main() -> int:
    """0 when everything went as it should, 1 for a surprise, 2 for something to put right, 130 for Ctrl-C."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        return asyncio.run(demo(console))
    except Surprise as surprise:
        console.print(f"[bold red]surprise:[/] {escape(str(surprise))}")
        return 1
    except (Problem, stack.PartFailed) as problem:
        console.print(f"[bold red]{escape(str(problem))}[/]")
        return 2
    except KeyboardInterrupt:
        return 130


async def demo(console: Console) -> int:
    """Plays on the stack that runs, or starts one in a temporary folder and stops it afterwards."""
    running = stack.find()
    if running is not None:
        console.print(f"on the running stack at {running.graphql}")
        return await tell(console, running)
    with tempfile.TemporaryDirectory(prefix="motcua-") as folder:
        console.print("no stack runs here; starting one for the demo")
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
    sys.exit(main())
