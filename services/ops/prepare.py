"""Prepares an installation for the version of the services that this is of, before they start:

    python -m ops.prepare

makes the streams and durable consumers of JetStream that are missing, and corrects those that differ;
services have no right to. It may be run again at any time, also while the services run, and several at once;
a step that finds everything as it should be changes nothing. NATS_URL is of a user who may make streams and
consumers; STREAM_REPLICAS says how many copies. Ends with 0 when all is as it should be, else with 2 and a
line that says what is wrong; then it has to be run again, and no service of this version should be started.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn

import nats
import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from pydantic import ValidationError
from pydantic_settings import SettingsError

from dossier.events_in import SUBSCRIPTIONS as DOSSIER
from kit import telemetry
from kit.settings import CannotStart, Settings, wrong
from kit.streams import (
    DEAD,
    Subscription,
    ask,
    consumer_info,
    provision_consumer,
    provision_stream,
    undivided,
)
from kit.tls import nats_context
from notify.events_in import SUBSCRIPTIONS as NOTIFY
from ops.settings import PrepareSettings
from payment.events_in import SUBSCRIPTIONS as PAYMENT

CONTEXTS: Final = ("identity", "catalog", "dossier", "payment", "notify")
SUBSCRIPTIONS: Final[tuple[Subscription, ...]] = (*DOSSIER, *NOTIFY, *PAYMENT)
_PAUSE = 0.5  # seconds before a step is tried again
# What passes by itself: no leader yet, no answer yet.
_PASSING = (nats.js.errors.ServiceUnavailableError, nats.errors.TimeoutError, nats.errors.NoRespondersError)


@dataclass(frozen=True)
class Step:
    """A part of the preparation: `do` may be repeated, and answers in words what it changed, or nothing. It
    raises CannotStart for what only a person can mend."""

    name: str
    do: Callable[[], Awaitable[str]]


async def run(steps: Iterable[Step], patience: float, say: Callable[[str], None]) -> None:
    """Takes one step after the other, and says after each what it did. What passes by itself is tried again
    for `patience` seconds altogether. Raises CannotStart, which names the step."""
    until = time.monotonic() + patience
    listed, changed = list(steps), 0
    for number, step in enumerate(listed, 1):
        while True:
            try:
                done = await step.do()
                break
            except _PASSING as error:
                if time.monotonic() >= until:
                    raise CannotStart(f"{step.name}: {_described(error)}") from error
            except nats.js.errors.APIError as error:
                raise CannotStart(f"{step.name}: JetStream refuses: {error.description}") from error
            await asyncio.sleep(_PAUSE)
        changed += bool(done)
        say(f"{number}/{len(listed)} {step.name}: {done or 'as it should be'}")
    say(f"prepared: {len(listed)} steps, {changed} with changes")


def _described(error: Exception) -> str:
    if isinstance(error, nats.js.errors.APIError):
        return f"JetStream cannot: {error.description}"
    if isinstance(error, nats.errors.NoRespondersError):
        return "NATS runs without JetStream, or it has no leader"
    return "NATS does not answer: is this user allowed to make streams and consumers?"


def event_steps(
    jetstream: JetStreamContext,
    replicas: int,
    patience: float = 0.0,
    *,
    contexts: Iterable[str] = CONTEXTS,
    subscriptions: Iterable[Subscription] = SUBSCRIPTIONS,
) -> list[Step]:
    """The streams of `contexts` and DEAD with that many replicas, then the consumers of all subscriptions."""
    return [
        *(
            Step(f"stream {name}", partial(provision_stream, jetstream, name, replicas))
            for name in (*contexts, DEAD)
        ),
        *(
            Step(f"consumers {wanted.durable}", partial(_consumers, jetstream, wanted, patience))
            for wanted in subscriptions
        ),
    ]


async def _consumers(jetstream: JetStreamContext, wanted: Subscription, patience: float) -> str:
    """A consumer of before there were partitions can be divided only after what its stream took in before it
    had them is handled; the running services do that meanwhile."""
    until, legacy = time.monotonic() + patience, None
    while True:
        _, done = await provision_consumer(jetstream, wanted, legacy)
        base = await consumer_info(jetstream, wanted.stream, wanted.durable)
        if not wanted.ordered or base is None or not undivided(base["config"]):
            return done
        if legacy is None:
            legacy = int((await ask(jetstream, f"STREAM.INFO.{wanted.stream}"))["state"]["last_seq"])
            continue
        if time.monotonic() >= until:
            number = base["num_pending"] + base["num_ack_pending"]
            return f"not divided yet: {number} events of before are not handled; run this again when they are"
        await asyncio.sleep(_PAUSE)


async def prepare(settings: Settings, say: Callable[[str], None] = print) -> None:
    """All steps, with what the settings lead to. Raises CannotStart."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error) or type(error).__name__)

    until = time.monotonic() + settings.start_patience
    while True:
        try:
            client = await nats.connect(
                settings.nats_url.split(","),
                name="prepare",
                inbox_prefix="_INBOX.prepare",
                connect_timeout=3,
                max_reconnect_attempts=2,
                reconnect_time_wait=0.2,
                error_cb=note,
                tls=nats_context(settings.nats_url, settings.tls),
            )
            break
        except (nats.errors.Error, OSError) as error:
            if any("authorization" in text.lower() for text in [*refused, str(error)]):
                raise CannotStart(f"NATS at {settings.nats_servers} refuses this user or password") from error
            if time.monotonic() >= until:
                raise CannotStart(f"NATS does not answer at {settings.nats_servers}") from error
        await asyncio.sleep(_PAUSE)
    try:
        steps = event_steps(client.jetstream(), settings.stream_replicas, settings.start_patience)
        await run(steps, max(until - time.monotonic(), 0.0), say)
    except CannotStart as error:
        forbidden = [text for text in refused if "permissions violation" in text.lower()]
        if forbidden:
            raise CannotStart(f"{error}; NATS says: {forbidden[-1]}") from error
        raise
    finally:
        await client.close()


def main() -> NoReturn:
    """The command line, which has no arguments: whoever asks for help, or mistypes, changes nothing."""
    argparse.ArgumentParser(
        prog="python -m ops.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        settings = PrepareSettings()
        telemetry.setup(settings, "prepare")
        asyncio.run(prepare(settings, partial(print, flush=True)))
    except ValidationError as error:
        _fail(f"bad setting: {wrong(error)}")
    except (CannotStart, SettingsError) as error:
        _fail(str(error))
    except (nats.errors.Error, OSError) as error:
        _fail(f"NATS does not answer any more: {type(error).__name__}")
    except KeyboardInterrupt:
        _fail("cut off; run it again")
    telemetry.end(0)


def _fail(why: str) -> NoReturn:
    print(f"ops.prepare: {why}", file=sys.stderr)
    telemetry.end(2)


if __name__ == "__main__":
    main()
