"""What could not be handled: `python -m kit.dead list | show NUMBER | replay NUMBER…|all`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from importlib import import_module
from urllib.parse import urlsplit

import nats
import nats.js.errors
from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from kit.events import plain_subject
from kit.ids import uuid7
from kit.settings import Settings
from kit.streams import DEAD
from kit.tls import nats_context


async def messages(jetstream: JetStreamContext) -> list[RawStreamMsg]:
    """All that is in the DEAD stream, oldest first."""
    try:
        state = (await jetstream.stream_info(DEAD)).state
    except nats.js.errors.NotFoundError:
        return []
    found = []
    for number in range(max(state.first_seq, 1), state.last_seq + 1):
        try:
            found.append(await jetstream.get_msg(DEAD, number))
        except nats.js.errors.NotFoundError:
            continue  # replayed before
    return found


async def replay(jetstream: JetStreamContext, number: int) -> None:
    """Publishes the original again, with its event id, and takes it out of DEAD. All who listen to it get it
    again; those who had handled it know."""
    message = await jetstream.get_msg(DEAD, number)
    headers = dict(message.headers or {})
    subject = plain_subject(headers["dead-subject"])
    kept = {key: value for key, value in headers.items() if key.startswith("ce-") or key == "traceparent"}
    await jetstream.publish(subject, message.data or b"", headers={**kept, "Nats-Msg-Id": uuid7()})
    await jetstream.delete_msg(DEAD, number)


def shown(message: RawStreamMsg) -> str:
    """Headers and the message as text, or its bytes in hex when its type is not known here."""
    headers = dict(message.headers or {})
    lines = [f"{key}: {value}" for key, value in sorted(headers.items())]
    kind, data = headers.get("ce-type", ""), message.data or b""
    try:
        import_module(f"{kind.rpartition('.')[0]}.events_pb2")
        descriptor = descriptor_pool.Default().FindMessageTypeByName(kind)
        body = text_format.MessageToString(
            message_factory.GetMessageClass(descriptor).FromString(data), as_utf8=True
        )
    except (ImportError, ValueError, KeyError, DecodeError):
        body = data.hex(" ")
    return "\n".join([*lines, "", body])


async def _run(arguments: argparse.Namespace) -> int:
    settings = Settings()
    servers, tls = settings.nats_url.split(","), nats_context(settings.nats_url, settings.tls)
    user = urlsplit(servers[0]).username
    client = await nats.connect(
        servers,
        # NATS may let a user hear only an inbox of its own.
        **({"inbox_prefix": f"_INBOX.{user}"} if user else {}),
        tls=tls,
        connect_timeout=3,
        max_reconnect_attempts=2,
        reconnect_time_wait=0.2,
        error_cb=_quiet,
    )
    try:
        jetstream = client.jetstream()
        if arguments.do == "show":
            print(shown(await jetstream.get_msg(DEAD, arguments.number)))
            return 0
        waiting = await messages(jetstream)
        if arguments.do == "list":
            for message in waiting:
                headers = message.headers or {}
                values = (headers.get(f"dead-{name}", "?") for name in ("consumer", "reason", "subject"))
                print(f"{message.seq:>6}  {message.time:%Y-%m-%d %H:%M:%S}", *values, sep="  ")
            print(f"{len(waiting)} set aside")
            return 0
        chosen = [
            m.seq
            for m in waiting
            if m.seq and (arguments.numbers == ["all"] or str(m.seq) in arguments.numbers)
        ]
        for number in chosen:
            await replay(jetstream, number)
            print(f"{number} replayed")
        return 0 if chosen else 1
    except nats.js.errors.NotFoundError:
        print("there is no such message", file=sys.stderr)
        return 1
    finally:
        await client.close()


async def _quiet(error: Exception) -> None:
    """What matters is raised; the client's own log of every attempt is not wanted."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kit.dead", description=__doc__)
    commands = parser.add_subparsers(dest="do", required=True)
    commands.add_parser("list", help="what is set aside, and why")
    commands.add_parser("show", help="one of them, whole").add_argument("number", type=int)
    commands.add_parser("replay", help="publish again").add_argument(
        "numbers", nargs="+", metavar="NUMBER|all"
    )
    arguments = parser.parse_args()
    try:
        sys.exit(asyncio.run(_run(arguments)))
    except (nats.errors.Error, OSError) as error:
        sys.exit(f"NATS does not answer: {error}")


if __name__ == "__main__":
    main()
