"""Backup and restore of documents, event streams and objects, without a stop: `python -m ops.backup COMMAND`.

    backup               copies all to BACKUP_URL; the manifest is written last, a backup without one is none
    list                 the backups there are
    verify [RUN]         reads a backup (by default the newest) and says whether it is whole
    restore RUN          brings one back, into stores that are empty
    check                looks at the running installation: objects, receipts, codes, outboxes, dead events
    rewind --to INSTANT  lets all consumers begin again at that time: after the documents alone were restored

The order is what makes the copies fit together (docs/operations.md, "Why no stop is needed"): where the
consumers are, the documents, the messages of the streams, the objects. Ends with 0 when all is well, 1 when
something is missing or damaged, 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import nats.errors
import obstore
import obstore.exceptions
from nats.aio.client import Client as Nats
from obstore.store import ObjectStore
from pydantic import ValidationError
from pydantic_settings import SettingsError
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from kit import telemetry
from kit.clock import now, to_text
from kit.consumer import DEAD
from kit.settings import CannotStart, wrong
from ops import documents, health, objects, place, streams
from ops.settings import BackupSettings

_FORMAT = 1
_SKEW = timedelta(minutes=1)  # more than clocks differ, and than lies between an event's time and its write
log = logging.getLogger("ops.backup")


@dataclass
class Stores:
    """What is copied, and where to."""

    settings: BackupSettings
    backups: ObjectStore
    objects: ObjectStore
    mongo: documents.Client
    nats: Nats

    @property
    def prefix(self) -> str:
        """What the names of the databases begin with."""
        return self.settings.database_prefix


@asynccontextmanager
async def opened(settings: BackupSettings) -> AsyncIterator[Stores]:
    """All stores, connected."""
    async with AsyncExitStack() as open_things:
        mongo: documents.Client = AsyncMongoClient(
            settings.mongodb_url, appname="backup", retryReads=True, w="majority"
        )
        open_things.push_async_callback(mongo.close)
        client = await streams.connect(settings)
        open_things.push_async_callback(client.close)
        yield Stores(settings, place.backups(settings), place.objects(settings), mongo, client)


async def backup(stores: Stores, keep: int = 0) -> tuple[str, list[str]]:
    """Makes a backup; answers its name and what is wrong with it. `keep` > 0: that many newest ones stay."""
    began = now()
    run = began.strftime("%Y%m%dT%H%M%S.%fZ")
    folder = f"runs/{run}"
    log.info("backup %s begins", run)
    seen = documents.Seen(since=to_text(began - _SKEW))
    where = await streams.positions(stores.nats)
    at_once = await documents.is_replica_set(stores.mongo)
    collections = []
    async for collection in documents.dump(stores.mongo, stores.prefix, stores.backups, folder, seen):
        log.info("%s.%s: %d documents", collection.database, collection.name, collection.count)
        collections.append(asdict(collection))
    saved = []
    for name in await streams.names(stores.nats):
        path = f"{folder}/stream.{name}"
        config, state, file = await streams.snapshot(stores.nats, name, stores.backups, path)
        position = where.get(name, streams.Position(0, []))
        drop = await _too_new(stores.nats, name, position.last + 1, state["last_seq"], seen)
        log.info("stream %s: %d messages, %d too new", name, state["messages"], len(drop))
        saved.append(asdict(streams.Snapshot(name, config, state, file, drop, position.consumers)))
    tally = await objects.copy(stores.objects, stores.backups, seen.references)
    log.info("%d objects, %d of them new, %d bytes", tally.objects, tally.copied, tally.bytes)
    manifest = {
        "format": _FORMAT,
        "run": run,
        "began": to_text(began),
        "ended": to_text(now()),
        "read": "at one instant" if at_once else "in order",
        "documents": collections,
        "streams": saved,
        "objects": asdict(tally),
    }
    await place.put_json(stores.backups, f"{folder}/manifest.json", manifest)
    log.info("backup %s is there after %.1f s", run, (now() - began).total_seconds())
    if keep:
        await prune(stores.backups, keep)
    return run, [f"object {digest} is missing or damaged" for digest in tally.wrong]


async def _too_new(client: Nats, stream: str, first: int, last: int, seen: documents.Seen) -> list[int]:
    """Events of the time of the backup whose change is not in the documents. They did not happen there; what
    was set aside meanwhile will be set aside again."""
    if stream == DEAD:
        return list(range(first, last + 1))
    found = []
    async for message in streams.messages(client, stream, first, last):
        at = (message.headers or {}).get("ce-time", "")
        aggregate = (message.subject or "").rpartition(".")[2]
        if at and message.seq and not seen.has_event(stream, aggregate, at):
            found.append(message.seq)
    return found


async def runs(backups: ObjectStore) -> dict[str, bool]:
    """Every backup by name, oldest first, and whether it is whole (has its manifest)."""
    found: dict[str, bool] = {}
    for path in await place.listed(backups, "runs"):
        run = path.split("/")[1]
        found[run] = found.get(run, False) or path.endswith("/manifest.json")
    return dict(sorted(found.items()))


async def prune(backups: ObjectStore, keep: int) -> list[str]:
    """Deletes all whole backups but the newest `keep`, and the pieces of broken ones after two days; answers
    which.

    Objects stay: the vault deletes no document, so all of them are still somebody's.
    """
    found = await runs(backups)
    whole = [run for run, is_whole in found.items() if is_whole]
    stale = (now() - timedelta(days=2)).strftime("%Y%m%dT%H%M%S.%fZ")
    gone = whole[:-keep] + [run for run, is_whole in found.items() if not is_whole and run < stale]
    for run in gone:
        paths = await place.listed(backups, f"runs/{run}")
        for path in sorted(paths, key=lambda it: not it.endswith("/manifest.json")):
            await obstore.delete_async(backups, path)
        log.info("backup %s deleted", run)
    return gone


async def manifest_of(backups: ObjectStore, run: str = "") -> dict[str, Any]:
    """The manifest of that backup, or of the newest. Raises CannotStart when there is none."""
    run = run or next((name for name, whole in reversed((await runs(backups)).items()) if whole), "")
    if not run:
        raise CannotStart("there is no whole backup")
    try:
        manifest: dict[str, Any] = await place.get_json(backups, f"runs/{run}/manifest.json")
    except FileNotFoundError:
        raise CannotStart(f"there is no whole backup {run}") from None
    if manifest["format"] != _FORMAT:
        raise CannotStart(f"backup {run} has format {manifest['format']}; this tool reads {_FORMAT}")
    return manifest


async def verify(backups: ObjectStore, run: str = "", *, deep: bool = False) -> tuple[str, list[str]]:
    """Reads a whole backup; answers its name and what is wrong. `deep`: with the hash of every object."""
    manifest = await manifest_of(backups, run)
    found, wanted = [], documents.References()
    for entry in manifest["documents"]:
        collection = documents.Collection.from_manifest(entry)
        count = 0
        try:
            async for document in documents.stored(backups, collection):
                count += 1
                if (collection.database, collection.name) == ("dossier", "documents"):
                    wanted.add(document)
        except (ValueError, FileNotFoundError, zlib.error) as error:
            found.append(f"{collection.file.path}: {type(error).__name__}: {error}")
        if count != collection.count:
            found.append(f"{collection.file.path}: {count} documents instead of {collection.count}")
    for entry in manifest["streams"]:
        file = place.File(**entry["file"])
        try:
            async for _ in place.reading(backups, file):
                pass
        except (ValueError, FileNotFoundError) as error:
            found.append(f"{file.path}: {type(error).__name__}: {error}")
    tally = await objects.compare(backups, wanted, deep=deep)
    found += [f"object {digest} is missing or not what its name says" for digest in tally.wrong]
    return str(manifest["run"]), found


async def restore(stores: Stores, run: str, *, into_nonempty: bool = False) -> tuple[str, list[str]]:
    """Brings a backup back; answers its name and what is wrong with it. Nothing may run on the stores.

    Raises CannotStart when something is there already. `into_nonempty` goes on with a restore that was cut
    off: documents that are there stay as they are, streams are made anew.
    """
    manifest = await manifest_of(stores.backups, run)
    there = await streams.names(stores.nats)
    full = [*await documents.filled(stores.mongo, stores.prefix), *(f"stream {name}" for name in there)]
    if full and not into_nonempty:
        more = f" and {len(full) - 3} more" if len(full) > 3 else ""
        raise CannotStart(f"not empty: {', '.join(full[:3])}{more}; nothing was restored")
    began = time.monotonic()
    wanted, inserted = documents.References(), 0
    collections = [documents.Collection.from_manifest(entry) for entry in manifest["documents"]]
    for collection in collections:
        if (collection.database, collection.name) == ("dossier", "documents"):
            async for document in documents.stored(stores.backups, collection):
                wanted.add(document)
    tally = await objects.copy(stores.backups, stores.objects, wanted)
    log.info("%d objects, %d of them copied", tally.objects, tally.copied)
    for collection in collections:
        number = await documents.load(stores.mongo, stores.prefix, stores.backups, collection)
        log.info("%s.%s: %d of %d inserted", collection.database, collection.name, number, collection.count)
        inserted += number
    for entry in manifest["streams"]:
        saved = streams.Snapshot.from_manifest(entry)
        if saved.name in there:
            await streams.ask(stores.nats, f"STREAM.DELETE.{saved.name}")
        await streams.restore(stores.nats, saved, stores.backups, stores.settings.stream_replicas)
        log.info("stream %s: %d messages", saved.name, saved.state["messages"] - len(saved.drop))
    log.info("%d documents inserted, restored after %.1f s", inserted, time.monotonic() - began)
    return str(manifest["run"]), [f"object {digest} is not in the backup" for digest in tally.wrong]


async def _run(arguments: argparse.Namespace, settings: BackupSettings) -> int:
    if arguments.do != "check" and arguments.do != "rewind" and not settings.backup_url:
        raise CannotStart("set BACKUP_URL")
    if arguments.do == "list":
        for run, whole in (await runs(place.backups(settings))).items():
            print(run if whole else f"{run}  not whole")
        return 0
    if arguments.do == "verify":
        run, found = await verify(place.backups(settings), arguments.run, deep=arguments.deep)
        return _say(found, f"backup {run} is whole")
    if arguments.do == "rewind":
        client = await streams.connect(settings)
        try:
            print("\n".join(await streams.rewind(client, _instant(arguments.to))))
        finally:
            await client.close()
        return 0
    if not settings.object_store_url:
        raise CannotStart("set OBJECT_STORE_URL")
    async with opened(settings) as stores:
        if arguments.do == "backup":
            run, found = await backup(stores, arguments.keep)
            return _say(found, f"backup {run}")
        if arguments.do == "restore":
            run, found = await restore(stores, arguments.run, into_nonempty=arguments.into_nonempty)
            return _say(found, f"backup {run} is restored; start the services, then: check")
        found = await health.problems(
            stores.mongo,
            stores.prefix,
            stores.nats,
            stores.objects,
            deep=arguments.deep,
            patience=arguments.wait,
        )
        return _say(found, "all is well")


def _say(found: list[str], well: str) -> int:
    print("\n".join(found) or well)
    return 1 if found else 0


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0")
    return int(text)


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise CannotStart(f"--to: {text!r} is no instant such as 2026-11-23T16:00:00Z") from None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.backup", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="do", required=True)
    make = commands.add_parser("backup", help="make one")
    make.add_argument("--keep", type=_number, default=0, help="delete all but so many newest; 0: nothing")
    commands.add_parser("list", help="those that are there")
    look = commands.add_parser("verify", help="whether one is whole")
    look.add_argument("run", nargs="?", default="", help="its name; by default the newest")
    back = commands.add_parser("restore", help="bring one back into empty stores")
    back.add_argument("run", help="its name, from `list`")
    back.add_argument("--into-nonempty", action="store_true", help="go on with one that was cut off")
    check = commands.add_parser("check", help="whether the installation is as it must be")
    check.add_argument("--wait", type=float, default=60.0, help="seconds that what is on its way may take")
    for reader in (look, check):
        reader.add_argument("--deep", action="store_true", help="read every object and compare its hash")
    commands.add_parser("rewind", help="consumers begin again at a time").add_argument("--to", required=True)
    return parser.parse_args()


def main() -> NoReturn:
    """The command line."""
    arguments = _arguments()
    try:
        settings = BackupSettings()
        telemetry.setup(settings, "backup")
        code = asyncio.run(_run(arguments, settings))
    except ValidationError as error:
        _fail(f"bad setting: {wrong(error)}")
    except (CannotStart, SettingsError, streams.StreamError) as error:
        _fail(str(error))
    except (place.Damaged, zlib.error) as error:
        _fail(f"the backup is damaged: {error}", 1)
    except nats.errors.Error as error:
        _fail(f"NATS does not answer, or refuses: {type(error).__name__}")
    except PyMongoError as error:
        _fail(f"MongoDB does not answer, or refuses: {type(error).__name__}")
    except (OSError, obstore.exceptions.BaseError) as error:
        _fail(f"a store does not answer, or refuses: {type(error).__name__}")
    except KeyboardInterrupt:
        _fail("cut off")
    telemetry.end(code)


def _fail(why: str, code: int = 2) -> NoReturn:
    print(f"ops.backup: {why}", file=sys.stderr)
    telemetry.end(code)


if __name__ == "__main__":
    main()
