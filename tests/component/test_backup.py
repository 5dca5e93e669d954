"""Backup and restore, piece by piece, on the real document store's wire and real NATS servers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import nats.js.errors
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from obstore.store import LocalStore
from pymongo import AsyncMongoClient
from pymongo.errors import DuplicateKeyError

from dev.options import SERVICES, free_port
from kit.clock import now, to_text
from kit.events import entry_of
from kit.ids import uuid7
from kit.settings import CannotStart
from motcua.dossier.v1.events_pb2 import DossierSubmitted
from ops import backup, documents, health, place, streams
from ops.settings import BackupSettings
from tests.conftest import _BIN, NatsServer, run_part

DIGEST = hashlib.sha256(b"bytes of a document").hexdigest()
Stores = backup.Stores


def aggregate(id: str, **more: Any) -> dict[str, Any]:
    """A document as a store writes it."""
    own = {"_id": id, "version": 1, "updated": to_text(now()), "outbox": [], "outbox_pending": 0, "state": {}}
    return {**own, **more}


class Installation:
    """The three stores of an installation, with little in them."""

    def __init__(self, mongo_url: str, nats_url: str, home: Path, backups: Path) -> None:
        self.settings = BackupSettings(
            mongodb_url=mongo_url,
            nats_url=nats_url,
            object_store_url=(home / "objects").as_uri(),
            backup_url=backups.as_uri(),
            database_prefix=f"b{uuid7()[-8:]}_",
        )

    async def __aenter__(self) -> Stores:
        self._open = backup.opened(self.settings)
        self.stores = await self._open.__aenter__()
        return self.stores

    async def __aexit__(self, *raised: object) -> None:
        for service in documents.ORDER:
            await self.stores.mongo.drop_database(f"{self.settings.database_prefix}{service}")
        await self._open.__aexit__(None, None, None)


@pytest.fixture
async def here(mongo_url: str, tmp_path: Path) -> AsyncIterator[Stores]:
    """An installation with a stream for dossiers and one for what was set aside."""
    with server(tmp_path / "here") as url:
        async with Installation(mongo_url, url, tmp_path / "here", tmp_path / "backups") as stores:
            jetstream = stores.nats.jetstream()
            for name, subject in (("dossier", "motcua.dossier.>"), ("DEAD", "dead.>")):
                await jetstream.add_stream(StreamConfig(name=name, subjects=[subject]))
            await jetstream.add_consumer(
                "dossier", ConsumerConfig(durable_name="notify-dossier", ack_policy=AckPolicy.EXPLICIT)
            )
            yield stores


@pytest.fixture
async def elsewhere(mongo_url: str, tmp_path: Path) -> AsyncIterator[Stores]:
    """An empty installation that sees the same backups."""
    with server(tmp_path / "elsewhere") as url:
        async with Installation(mongo_url, url, tmp_path / "elsewhere", tmp_path / "backups") as stores:
            yield stores


@contextmanager
def server(home: Path) -> Iterator[str]:
    """One NATS server."""
    home.mkdir()
    made = NatsServer(home)
    made.start()
    try:
        yield made.url
    finally:
        made.stop()


async def announce(stores: Stores, id: str, at: str = "") -> int:
    """An event of a dossier in its stream, as the relay publishes it; its number."""
    entry = entry_of("dossier", id, DossierSubmitted(), at or to_text(now()))
    headers = {"ce-time": entry.time, "ce-id": entry.id, "Nats-Msg-Id": entry.id}
    subject = entry.subject
    return (await stores.nats.jetstream().publish(subject, id.encode(), headers=headers)).seq


async def deliver(stores: Stores, number: int) -> list[str]:
    """What the consumer gets next, acknowledged."""
    pull = await stores.nats.jetstream().pull_subscribe_bind(consumer="notify-dossier", stream="dossier")
    messages = await pull.fetch(number, timeout=2)
    for message in messages:
        await message.ack_sync()
    return [message.data.decode() for message in messages]


def database(stores: Stores, service: str) -> Any:
    return stores.mongo[f"{stores.prefix}{service}"]


async def put_document(stores: Stores, id: str = "d1") -> None:
    """A document of the vault with its bytes."""
    version = {"sha256": DIGEST, "size": 19}
    held = aggregate(id, state={"versions": [version]})
    await database(stores, "dossier")["documents"].insert_one(held)
    store: Any = stores.objects
    await store.put_async(f"sha256/{DIGEST[:2]}/{DIGEST}", b"bytes of a document")


async def test_what_comes_back_is_what_was_there_with_indexes_dates_numbers_and_positions(
    here: Stores, elsewhere: Stores
) -> None:
    requests = database(here, "dossier")["requests"]
    await requests.create_index([("expires", 1)], name="expires", expireAfterSeconds=0)
    expires = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    await requests.insert_one({"_id": "r1", "value": "x", "expires": expires})
    dossiers = database(here, "dossier")["dossiers"]
    await dossiers.create_index([("code", 1)], name="code", unique=True)
    await dossiers.insert_many([aggregate(f"{n:05d}", code=n, text="Đơn số " + "9" * n) for n in range(1203)])
    await database(here, "dossier")["counters"].insert_one({"_id": "day", "value": 7})
    await put_document(here)
    for number in range(5):
        await announce(here, f"{number:05d}")
    await here.nats.jetstream().delete_msg("dossier", 2)
    assert len(await deliver(here, 2)) == 2

    run, wrong = await backup.backup(here)
    assert wrong == []
    assert await backup.verify(here.backups, deep=True) == (run, [])
    assert await backup.restore(elsewhere, run) == (run, [])

    for name in ("dossiers", "requests", "counters", "documents"):
        there = await database(elsewhere, "dossier")[name].find({}).sort("_id", 1).to_list()
        assert there == await database(here, "dossier")[name].find({}).sort("_id", 1).to_list()
    indexes = await (await database(elsewhere, "dossier")["requests"].list_indexes()).to_list()
    assert [index["expireAfterSeconds"] for index in indexes if "expires" in index["key"]] == [0]
    with pytest.raises(DuplicateKeyError):
        await database(elsewhere, "dossier")["dossiers"].insert_one(aggregate("other", code=1))
    state = (await elsewhere.nats.jetstream().stream_info("dossier")).state
    assert (state.messages, state.first_seq, state.last_seq) == (4, 1, 5)
    assert await deliver(elsewhere, 2) == ["00003", "00004"]
    assert await elsewhere.objects.get_async(f"sha256/{DIGEST[:2]}/{DIGEST}")


async def test_a_second_backup_copies_only_objects_that_are_new(here: Stores) -> None:
    await put_document(here)
    first, _ = await backup.backup(here)
    second, _ = await backup.backup(here)
    copied = [(await backup.manifest_of(here.backups, run))["objects"]["copied"] for run in (first, second)]
    assert copied == [1, 0]


async def test_events_of_changes_that_the_documents_do_not_have_are_not_brought_back(
    here: Stores, elsewhere: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of a future that did not happen; those whose change was read are kept."""
    dossiers = database(here, "dossier")["dossiers"]
    ids = ["known", "H32.15"]  # agencies and procedures are named so
    await dossiers.insert_many([aggregate(id) for id in ids])
    whole = documents.dump

    async def while_people_work(*arguments: Any) -> AsyncIterator[documents.Collection]:
        changed = to_text(now())
        for id in ids:
            await dossiers.replace_one({"_id": id}, aggregate(id, updated=changed))
            await announce(here, id, changed)
        async for collection in whole(*arguments):
            yield collection
        later = to_text(now() + timedelta(milliseconds=5))
        await announce(here, "known", later)
        await announce(here, "made-after", later)
        await here.nats.jetstream().publish("dead.notify-dossier", b"set aside meanwhile")

    await announce(here, "long-ago", to_text(now() - timedelta(days=1)))
    await here.nats.jetstream().publish("dead.notify-dossier", b"set aside before")
    monkeypatch.setattr(documents, "dump", while_people_work)
    run, _ = await backup.backup(here)
    await backup.restore(elsewhere, run)
    assert await deliver(elsewhere, 3) == ["long-ago", *ids]
    assert (await elsewhere.nats.jetstream().stream_info("dossier")).state.messages == 3
    assert (await elsewhere.nats.jetstream().stream_info("DEAD")).state.messages == 1


async def test_what_was_handled_while_the_documents_were_read_is_delivered_again(
    here: Stores, elsewhere: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = documents.dump

    async def while_an_event_is_handled(*arguments: Any) -> AsyncIterator[documents.Collection]:
        async for collection in whole(*arguments):
            yield collection
        assert await deliver(here, 1) == ["second"]

    long_ago = to_text(now() - timedelta(hours=1))
    await announce(here, "first", long_ago)
    await announce(here, "second", long_ago)
    assert await deliver(here, 1) == ["first"]
    monkeypatch.setattr(documents, "dump", while_an_event_is_handled)
    run, _ = await backup.backup(here)
    await backup.restore(elsewhere, run)
    assert await deliver(elsewhere, 1) == ["second"]


async def test_receipts_beyond_their_book_and_open_uploads_stay_out(here: Stores, elsewhere: Stores) -> None:
    payment, dossier = database(here, "payment"), database(here, "dossier")
    await payment["receipt_books"].insert_one(aggregate("H32:EBL01:26TAB", state={"last": 2}))
    about = {"agency": "H32", "form": "EBL01", "series": "26TAB"}
    await payment["receipts"].insert_many(
        [aggregate(f"r{n}", state={**about, "number": n}) for n in (1, 2, 3)]
    )
    await dossier["uploads"].insert_many([aggregate("done", open=0), aggregate("under way", open=1)])
    if await documents.is_replica_set(here.mongo):
        pytest.skip("there all is read at one instant, and no receipt can be beyond its book")
    run, _ = await backup.backup(here)
    await backup.restore(elsewhere, run)
    receipts = await database(elsewhere, "payment")["receipts"].find({}).to_list()
    assert sorted(receipt["_id"] for receipt in receipts) == ["r1", "r2"]
    uploads = await database(elsewhere, "dossier")["uploads"].find({}).to_list()
    assert [upload["_id"] for upload in uploads] == ["done"]


async def test_damage_and_loss_are_found(here: Stores, tmp_path: Path) -> None:
    await put_document(here)
    await announce(here, "one")
    run, _ = await backup.backup(here)
    folder = tmp_path / "backups"
    for path in (folder / f"runs/{run}/stream.dossier", folder / f"runs/{run}/dossier.documents.bson.gz"):
        before = path.read_bytes()
        path.write_bytes(before[:40] + bytes([before[40] ^ 255]) + before[41:])
        _, found = await backup.verify(here.backups, run)
        assert [line for line in found if path.name in line]
        path.write_bytes(before)
    (folder / f"sha256/{DIGEST[:2]}/{DIGEST}").write_bytes(b"bytes of another one")
    assert (await backup.verify(here.backups, run))[1] == [
        f"object {DIGEST} is missing or not what its name says"
    ]
    (folder / f"sha256/{DIGEST[:2]}/{DIGEST}").write_bytes(b"bytes of a dokument")
    assert (await backup.verify(here.backups, run))[1] == []
    assert len((await backup.verify(here.backups, run, deep=True))[1]) == 1


async def test_a_vault_with_a_damaged_object_is_backed_up_and_reported(here: Stores, tmp_path: Path) -> None:
    await put_document(here)
    (tmp_path / f"here/objects/sha256/{DIGEST[:2]}/{DIGEST}").write_bytes(b"bytes of a dokument")
    run, found = await backup.backup(here)
    assert found == [f"object {DIGEST} is missing or damaged"]
    assert (await backup.runs(here.backups))[run]
    assert not (tmp_path / f"backups/sha256/{DIGEST[:2]}/{DIGEST}").exists()


async def test_a_backup_without_its_manifest_does_not_count(here: Stores, tmp_path: Path) -> None:
    run, _ = await backup.backup(here)
    cut_off, _ = await backup.backup(here)
    (tmp_path / f"backups/runs/{cut_off}/manifest.json").unlink()
    assert await backup.runs(here.backups) == {run: True, cut_off: False}
    assert (await backup.verify(here.backups))[0] == run
    with pytest.raises(CannotStart, match="no whole backup"):
        await backup.restore(here, cut_off)


async def run(*arguments: str, **settings: str) -> tuple[int, str]:
    """The tool as a process: its exit code and what it says beside its log."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops.backup", *arguments),
        env={**os.environ, "LOG_LEVEL": "ERROR", **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_the_exit_code_tells_damage_from_what_cannot_be_done_in_one_line(
    here: Stores, elsewhere: Stores, tmp_path: Path
) -> None:
    backups = {"BACKUP_URL": here.settings.backup_url}
    assert await run("verify", **backups) == (2, "ops.backup: there is no whole backup\n")
    assert (await run("backup", "--keep", "-1", **backups))[0] == 2
    await put_document(here)
    made, _ = await backup.backup(here)
    assert await run("verify", **backups) == (0, f"backup {made} is whole\n")

    own = elsewhere.settings
    stores = {
        **backups,
        "MONGODB_URL": own.mongodb_url,
        "DATABASE_PREFIX": own.database_prefix,
        "OBJECT_STORE_URL": own.object_store_url,
    }
    code, said = await run("restore", made, **stores, NATS_URL=f"nats://127.0.0.1:{free_port()}")
    assert (code, said.count("\n"), said.startswith("ops.backup: NATS does not answer")) == (2, 1, True)
    path = tmp_path / f"backups/runs/{made}/dossier.documents.bson.gz"
    path.write_bytes(path.read_bytes()[:-1])
    code, said = await run("restore", made, **stores, NATS_URL=own.nats_url)
    assert (code, said.count("\n"), "dossier.documents.bson.gz" in said) == (1, 1, True)
    assert (await run("verify", **backups))[0] == 1


def test_every_service_that_has_documents_is_backed_up() -> None:
    assert set(documents.ORDER) == set(SERVICES)


async def test_only_the_newest_are_kept_and_what_is_cut_off_goes_after_days(
    here: Stores, tmp_path: Path
) -> None:
    await put_document(here)
    made = [(await backup.backup(here))[0] for _ in range(3)]
    stale = tmp_path / "backups/runs/20200101T000000.000000Z"
    stale.mkdir()
    (stale / "stream.dossier").write_bytes(b"x")
    newest, _ = await backup.backup(here, keep=2)
    assert await backup.runs(here.backups) == {made[2]: True, newest: True}
    assert await backup.verify(here.backups, made[2], deep=True) == (made[2], [])


async def test_nothing_is_restored_over_something_but_a_restore_that_was_cut_off_goes_on(
    here: Stores, elsewhere: Stores
) -> None:
    await database(here, "notify")["notices"].insert_many([aggregate(f"n{n}", value=n) for n in range(10)])
    await announce(here, "one", to_text(now() - timedelta(hours=1)))
    run, _ = await backup.backup(here)
    await database(elsewhere, "notify")["notices"].insert_many([aggregate("n3", value=3)])
    await elsewhere.nats.jetstream().add_stream(StreamConfig(name="dossier", subjects=["motcua.dossier.>"]))
    with pytest.raises(CannotStart, match="not empty"):
        await backup.restore(elsewhere, run)
    assert await database(elsewhere, "notify")["notices"].count_documents({}) == 1
    await backup.restore(elsewhere, run, into_nonempty=True)
    notices = await database(elsewhere, "notify")["notices"].find({}).to_list()
    assert sorted(notice["value"] for notice in notices) == list(range(10))
    assert await deliver(elsewhere, 1) == ["one"]


async def test_a_stream_of_three_nodes_comes_back_on_three_nodes(
    here: Stores, mongo_url: str, tmp_path: Path
) -> None:
    for number in range(3):
        await announce(here, f"{number}", to_text(now() - timedelta(hours=1)))
    run, _ = await backup.backup(here)
    with cluster(tmp_path / "cluster") as url:
        three = Installation(mongo_url, url, tmp_path / "three", tmp_path / "backups")
        three.settings = three.settings.model_copy(update={"stream_replicas": 3})
        async with three as stores:
            await until_elected(stores)
            await backup.restore(stores, run)
            config = (await stores.nats.jetstream().stream_info("dossier")).config
            assert config.num_replicas == 3
            assert await deliver(stores, 3) == ["0", "1", "2"]
            again, _ = await backup.backup(stores)
            assert await backup.verify(stores.backups, again) == (again, [])


@contextmanager
def cluster(home: Path) -> Iterator[str]:
    """Three NATS servers that are one."""
    home.mkdir()
    clients: list[int] = []
    for _ in range(6):
        clients.append(free_port(clients))
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in clients[3:])
    with ExitStack() as running:
        for number in range(3):
            command = [f"{_BIN}/nats-server", "-js", "-a", "127.0.0.1", "-p", str(clients[number])]
            command += ["-sd", f"{home}/{number}", "-n", f"n{number}", "--cluster_name", "three"]
            command += ["--cluster", f"nats://127.0.0.1:{clients[3 + number]}", "--routes", routes]
            part = run_part(command, clients[number], home / f"log{number}")
            running.callback(lambda part=part: next(part, None))  # type: ignore[misc]
            next(part)
        yield ",".join(f"nats://127.0.0.1:{port}" for port in clients[:3])


async def until_elected(stores: Stores) -> None:
    """Returns when JetStream answers with three nodes."""
    async with asyncio.timeout(60):
        while True:
            try:
                await stores.nats.jetstream().add_stream(StreamConfig(name="probe", num_replicas=3))
                await stores.nats.jetstream().delete_stream("probe")
                return
            except (nats.js.errors.APIError, nats.errors.Error):
                await asyncio.sleep(0.2)


async def test_check_names_what_is_wrong(here: Stores) -> None:
    async def problems() -> list[str]:
        return await health.problems(
            here.mongo, here.prefix, here.nats, here.objects, deep=True, patience=0.0
        )

    await put_document(here)
    about = {"agency": "H32", "form": "EBL01", "series": "26TAB"}
    payment = database(here, "payment")
    await payment["receipt_books"].insert_one(aggregate("H32:EBL01:26TAB", state={"last": 2}))
    await payment["receipts"].insert_many([aggregate(f"r{n}", state={**about, "number": n}) for n in (1, 2)])
    await database(here, "dossier")["dossiers"].insert_one(aggregate("f1", state={"code": "H32.1"}))
    await database(here, "dossier")["dossier_codes"].insert_one({"_id": "H32.1", "value": "f1"})
    assert await problems() == []

    await payment["receipts"].delete_one({"_id": "r1"})
    await database(here, "dossier")["dossier_codes"].delete_one({"_id": "H32.1"})
    await here.objects.put_async(f"sha256/{DIGEST[:2]}/{DIGEST}", b"bytes of a dokument")
    await here.nats.jetstream().publish("dead.notify-dossier", b"set aside")
    found = "\n".join(await problems())
    for part in ("receipts of H32:EBL01:26TAB", "dossier f1", f"object {DIGEST}", "1 events are set aside"):
        assert part in found
    await database(here, "notify")["notices"].insert_one(aggregate("n1", outbox_pending=1))
    await announce(here, "one")
    found = "\n".join(await problems())
    assert "notices: 1 aggregates have something to announce" in found
    assert "consumer notify-dossier: 1 events to handle" in found


async def test_rewound_consumers_hear_again_what_was_said_since(here: Stores) -> None:
    await announce(here, "before")
    await deliver(here, 1)
    at = (await here.nats.jetstream().get_msg("dossier", 1)).time
    assert at is not None
    await announce(here, "after")
    await deliver(here, 1)
    assert await streams.rewind(here.nats, at + timedelta(microseconds=1)) == ["notify-dossier"]
    assert await deliver(here, 1) == ["after"]


async def test_documents_larger_than_a_page_and_many_of_them_are_read_once_each(mongo_url: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](mongo_url) as client:
        name = f"p{uuid7()[-8:]}_notify"
        await client[name]["notices"].insert_many([aggregate(f"{n:06d}") for n in range(1500)])
        seen = [
            document["_id"]
            async for page in documents._pages(client, name, "notices", None)
            for document in page
        ]
        await client.drop_database(name)
    assert seen == [f"{n:06d}" for n in range(1500)]


async def test_a_file_that_was_cut_off_is_no_collection(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    async with place.writing(store, "x.gz", packed=True) as sink:
        await sink.write(json.dumps({"no": "bson"}).encode())
    with pytest.raises(ValueError, match="cut off"):
        _ = [d async for d in documents.stored(store, documents.Collection("x", "y", 1, sink.file, []))]
