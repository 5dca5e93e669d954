"""`make dead`: the events that a consumer gave up on.

    python -m dev.dead               lists them
    python -m dev.dead show 3        one with its content
    python -m dev.dead replay 3 4    announces these again and takes them off the list (or `replay all`)

A replayed event keeps its id, so consumers that have handled it before do nothing. NATS is that of the
running stack, else NATS_URL.
"""

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from typing import cast

import nats
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default
from google.protobuf.json_format import MessageToJson
from nats.errors import Error as NatsError
from nats.errors import NoServersError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from rich.console import Console
from rich.table import Table

from dev.options import SERVICES, Problem
from dev.stack import find
from kit.consumer import DEAD


async def letters(jetstream: JetStreamContext) -> AsyncIterator[tuple[int, RawStreamMsg]]:
    """All dead events with their numbers, oldest first."""
    try:
        state = (await jetstream.stream_info(DEAD)).state
    except NotFoundError:
        return
    number = state.first_seq
    while number <= state.last_seq and state.messages:
        try:
            letter = await jetstream.get_msg(DEAD, number, next=True)
        except NotFoundError:
            return
        number = cast(int, letter.seq)
        yield number, letter
        number += 1


def content(kind: str, data: bytes) -> str:
    """The event's message as JSON; its bytes in hex when its type is none of ours."""
    for name in SERVICES:
        importlib.import_module(f"motcua.{name}.v1.events_pb2")
    try:
        message = message_factory.GetMessageClass(Default().FindMessageTypeByName(kind))()
        message.ParseFromString(data)
    except Exception as error:  # an undecodable event is one reason to be here
        return f"{data.hex()}\n(not readable as {kind or 'anything'}: {error})"
    return MessageToJson(message, indent=2, ensure_ascii=False)


async def replay(jetstream: JetStreamContext, number: int, letter: RawStreamMsg) -> str:
    """Announces the event again on its own subject, then deletes it here; returns the subject."""
    headers = {k: v for k, v in (letter.headers or {}).items() if not k.startswith("dead-")}
    subject: str = (letter.headers or {})["dead-subject"]
    headers["Nats-Msg-Id"] = f"replay:{number}"  # the stream may still know its old one as a duplicate
    await jetstream.publish(subject, letter.data or b"", headers=headers, timeout=5)
    await jetstream.delete_msg(DEAD, number)
    return subject


async def run(arguments: argparse.Namespace, url: str) -> int:
    """Does what the command line says; returns the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    client = await nats.connect(url, connect_timeout=3, allow_reconnect=False)
    try:
        jetstream = client.jetstream()
        found = {number: letter async for number, letter in letters(jetstream)}
        if arguments.command == "list":
            table = Table("no.", "consumer", "reason", "type", "event", "when", "error")
            for number, letter in found.items():
                heads = letter.headers or {}
                names = ("dead-consumer", "dead-reason", "ce-type", "ce-id", "ce-time", "dead-error")
                table.add_row(str(number), *(heads.get(name, "") for name in names))
            console.print(table if found else "no dead events")
            return 0
        chosen = list(found) if arguments.numbers == ["all"] else [int(text) for text in arguments.numbers]
        if unknown := [number for number in chosen if number not in found]:
            raise Problem(f"no dead event {unknown[0]}; there are {', '.join(map(str, found)) or 'none'}")
        for number in chosen:
            if arguments.command == "show":
                heads = found[number].headers or {}
                for name, value in sorted(heads.items()):
                    console.print(f"{name}: {value}", markup=False, highlight=False)
                console.print(content(heads.get("ce-type", ""), found[number].data or b""), markup=False)
            else:
                console.print(f"{number} announced again on {await replay(jetstream, number, found[number])}")
        return 0
    finally:
        await client.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `make dead`."""
    parser = argparse.ArgumentParser(prog="dead", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="list them (the default)")
    for name, meaning in (("show", "show events with their content"), ("replay", "announce events again")):
        commands.add_parser(name, help=meaning).add_argument("numbers", nargs="+", metavar="NUMBER")
    parser.set_defaults(command="list")
    arguments = parser.parse_args(argv)
    running = find()
    url = running.nats if running else os.environ.get("NATS_URL", "")
    try:
        if not url:
            raise Problem("no stack runs here and NATS_URL is not set")
        if not all(text == "all" or text.isdigit() for text in getattr(arguments, "numbers", [])):
            raise Problem("numbers are those that the list shows, or `all`")
        return asyncio.run(run(arguments, url))
    except Problem as problem:
        print(f"dead: {problem}", file=sys.stderr)
    except (NoServersError, NatsError, OSError) as error:
        print(f"dead: NATS at {url} does not answer ({error})", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
