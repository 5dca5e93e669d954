"""What could not be handled: `python -m kit.dead list | show NUMBER | replay NUMBER…|all`."""

from __future__ import annotations

import argparse
import asyncio
import base64
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from urllib.parse import urlsplit

import nats
import nats.js.errors
from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from kit import origin
from kit.events import plain_subject, published_subject, wire_size
from kit.ids import uuid7
from kit.settings import Settings
from kit.streams import DEAD, ask
from kit.tls import nats_context

_PLACE = re.compile(r"([A-Za-z0-9_-]+):([0-9]{1,18})")  # a stream, and a number in it


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


class NotReplayed(Exception):
    """A message of DEAD that cannot be published again; the text says why."""


@dataclass(frozen=True)
class Original:
    """An event as its stream has it."""

    stream: str
    subject: str
    headers: dict[str, str]
    data: bytes


async def original_of(jetstream: JetStreamContext, message: RawStreamMsg) -> Original:
    """The event that was set aside. What stands in DEAD is said by whoever may write there; the event itself
    is only what its stream has. Raises NotReplayed."""
    headers = message.headers or {}
    # Before there was `dead-original`, the message's id had it.
    place = headers.get("dead-original") or headers.get("Nats-Msg-Id", "").partition(":")[2]
    if not (found := _PLACE.fullmatch(place)) or found[1] == DEAD:
        raise NotReplayed("it does not say which event it was")
    try:
        request = {"seq": int(found[2])}
        stored = (await ask(jetstream, f"STREAM.MSG.GET.{found[1]}", request))["message"]
    except nats.js.errors.NotFoundError as error:
        raise NotReplayed(f"the event {place} is not there any more") from error
    raw = base64.b64decode(stored.get("hdrs", ""))
    data = base64.b64decode(stored.get("data", ""))
    return Original(found[1], published_subject(stored["subject"]), origin.headers_of(raw), data)


async def replay(jetstream: JetStreamContext, number: int, *, unmarked: bool = False) -> None:
    """Publishes the original again, with its event id, and takes it out of DEAD. All who listen to it get it
    again; those who had handled it know. Raises NotReplayed for what was never an event of its stream;
    `unmarked` takes one that does not name its stream, as versions before published it."""
    event = await original_of(jetstream, await jetstream.get_msg(DEAD, number))
    headers = event.headers
    if unmarked and origin.STREAM not in headers:
        headers = {**headers, origin.STREAM: event.stream}
    if why := origin.fault(event.stream, event.subject, headers):
        raise NotReplayed(f"it is not an event of {event.stream}: {why}")
    kept = {key: value for key, value in headers.items() if key.startswith("ce-") or key == "traceparent"}
    kept |= {
        origin.SUBJECT: plain_subject(event.subject),
        "Nats-Msg-Id": uuid7(),
        origin.STREAM: event.stream,
    }
    if wire_size(kept, event.data) > jetstream._nc.max_payload:
        raise NotReplayed("it is larger than NATS takes")
    await jetstream.publish(plain_subject(event.subject), event.data, headers=kept)
    await jetstream.delete_msg(DEAD, number)


def shown(message: RawStreamMsg) -> str:
    """Headers and the message as text, or its bytes in hex when its type is not known here."""
    headers = dict(message.headers or {})
    lines = [_printable(f"{key}: {value}") for key, value in sorted(headers.items())]
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


def _printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


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
            message = await jetstream.get_msg(DEAD, arguments.number)
            if not message.data:  # it was too large to be kept with what is said of it
                with suppress(NotReplayed):
                    message = replace(message, data=(await original_of(jetstream, message)).data)
            print(shown(message))
            return 0
        waiting = await messages(jetstream)
        if arguments.do == "list":
            for message in waiting:
                headers = message.headers or {}
                values = (
                    _printable(headers.get(f"dead-{name}", "?")) for name in ("consumer", "reason", "subject")
                )
                print(f"{message.seq:>6}  {message.time:%Y-%m-%d %H:%M:%S}", *values, sep="  ")
            print(f"{len(waiting)} set aside")
            return 0
        chosen = [
            m.seq
            for m in waiting
            if m.seq and (arguments.numbers == ["all"] or str(m.seq) in arguments.numbers)
        ]
        refused = 0
        for number in chosen:
            try:
                await replay(jetstream, number, unmarked=arguments.unmarked)
                print(f"{number} replayed")
            except NotReplayed as error:
                refused += 1
                print(f"{number} is left: {error}", file=sys.stderr)
        return 0 if chosen and not refused else 1
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
    again = commands.add_parser("replay", help="publish again")
    again.add_argument("numbers", nargs="+", metavar="NUMBER|all")
    again.add_argument(
        "--unmarked",
        action="store_true",
        help="also what does not name its stream, as versions before published it; look at it first",
    )
    arguments = parser.parse_args()
    try:
        sys.exit(asyncio.run(_run(arguments)))
    except (nats.errors.Error, OSError) as error:
        sys.exit(f"NATS does not answer: {error}")


if __name__ == "__main__":
    main()
