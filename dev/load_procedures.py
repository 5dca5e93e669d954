"""`make import FILE=…`: loads procedures into the running stack, else into its data folder."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from dev.options import Options, Problem, private
from dev.parts import loader_environment
from dev.stack import PartFailed, Stack, data_folder, find

NEEDED = ("nats", "mongodb", "identity", "catalog")


def load(arguments: list[str], environment: dict[str, str]) -> int:
    """Runs `python -m catalog.load` in the foreground; returns its exit code."""
    command = [sys.executable, "-m", "catalog.load", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}).returncode


async def load_alone(arguments: list[str], options: Options) -> int:
    """Starts only what the catalogue needs, loads, and stops it again."""
    async with Stack(options, print, only=NEEDED) as stack:
        return await asyncio.to_thread(load, arguments, loader_environment(options.data, stack.addresses))


def main(argv: list[str]) -> int:
    """Entry; the arguments are those of `catalog.load`. Exit code 2: something to put right first."""
    try:
        if argv and not argv[0].startswith("-") and not Path(argv[0]).is_file():
            raise Problem(f"there is no file {argv[0]}")
        running = find()
        if running:
            return load(argv, loader_environment(data_folder(), running))
        print(
            f"import: no stack runs on {data_folder()} (DATA_DIR names another); starting the catalogue there"
        )
        return asyncio.run(load_alone(argv, private(data_folder())))
    except (Problem, PartFailed) as problem:
        print(f"import: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
