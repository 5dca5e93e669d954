"""What the gateway and the bank know, in one SQLite file: it survives `kill -9`, and so do unsent notices."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCHEMA = """
create table if not exists transactions (
    ref text primary key, number integer, amount integer, return_url text, info text, expires text,
    state text default 'pending', code text default '', captured integer default 0, paid_on text default '',
    refunded integer default 0
);
create table if not exists transfers (
    id text primary key, reference text, content text, amount integer, paid_on text,
    refunded integer default 0
);
create table if not exists refunds (request text primary key, subject text, amount integer);
create table if not exists notices (
    id integer primary key, kind text, subject text, payload text, due real, tries integer default 0,
    repeats integer default 0, answers text default '[]', done integer default 0
);
create index if not exists notices_due on notices (done, due);
"""
STATUS = {"pending": "01", "paid": "00", "failed": "02", "suspect": "07"}


@dataclass(frozen=True)
class Transaction:
    """A payment at the gateway. `amount` was asked for, `captured` was taken; both in đồng."""

    ref: str
    number: int
    amount: int
    return_url: str
    info: str
    expires: str
    state: str
    code: str
    captured: int
    paid_on: str
    refunded: int


@dataclass(frozen=True)
class Transfer:
    """Money that reached the merchant's account."""

    id: str
    reference: str
    content: str
    amount: int
    paid_on: str
    refunded: int


@dataclass(frozen=True)
class Notice:
    """A server-to-server message that has to be answered; `repeats` more follow the first good answer."""

    id: int
    kind: str
    subject: str
    payload: str
    tries: int
    repeats: int
    answers: list[str]


class Ledger:
    """The file. Each method is one transaction, and so is what happens within `together()`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "ledger.sqlite3", isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript("pragma journal_mode=wal; pragma synchronous=full;" + _SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside, or nothing."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def open_transaction(
        self, ref: str, amount: int, return_url: str, info: str, expires: str
    ) -> Transaction:
        """The transaction with this reference, made if it is new."""
        number = 14_000_000 + int(self._one("select count(*) from transactions")[0]) + 1
        self._db.execute(
            "insert into transactions (ref, number, amount, return_url, info, expires) "
            "values (?, ?, ?, ?, ?, ?) "
            "on conflict do nothing",
            (ref, number, amount, return_url, info, expires),
        )
        return self.existing(ref)

    def existing(self, ref: str) -> Transaction:
        """One by reference. Raises LookupError."""
        found = self.transaction(ref)
        if found is None:
            raise LookupError(ref)
        return found

    def transaction(self, ref: str) -> Transaction | None:
        """One by reference."""
        row = self._one("select * from transactions where ref = ?", ref)
        return Transaction(**dict(row)) if row else None

    def decide(self, ref: str, *, state: str, code: str, captured: int, paid_on: str) -> bool:
        """Settles a transaction that is open or under review; False when it has been settled before."""
        return bool(
            self._db.execute(
                "update transactions set state = ?, code = ?, captured = ?, paid_on = ? "
                "where ref = ? and state in ('pending', 'suspect')",
                (state, code, captured, paid_on, ref),
            ).rowcount
        )

    def transfer(self, *, id: str, reference: str, content: str, amount: int, paid_on: str) -> None:
        """Enters a transfer to the account."""
        self._db.execute(
            "insert into transfers (id, reference, content, amount, paid_on) values (?, ?, ?, ?, ?)",
            (id, reference, content, amount, paid_on),
        )

    def transfers(self, *, reference: str = "", day: str = "", id: str = "") -> list[Transfer]:
        """Transfers with a reference in their text, of a day (yyyyMMdd), or with an id."""
        rows = self._db.execute(
            "select * from transfers where (?1 = '' or reference = ?1) and (?2 = '' or id = ?2) "
            "and (?3 = '' or substr(paid_on, 1, 8) = ?3) order by paid_on, id",
            (reference, id, day),
        )
        return [Transfer(**dict(row)) for row in rows]

    def taken_on(self, day: str) -> list[Transaction]:
        """Transactions that took money on a day (yyyyMMdd)."""
        rows = self._db.execute(
            "select * from transactions where state = 'paid' and substr(paid_on, 1, 8) = ? order by number",
            (day,),
        )
        return [Transaction(**dict(row)) for row in rows]

    def recent(self) -> list[Transaction]:
        """The latest transactions."""
        rows = self._db.execute("select * from transactions order by number desc limit 20")
        return [Transaction(**dict(row)) for row in rows]

    def refund(self, request: str, subject: str, table: str, amount: int) -> bool:
        """Sends money back once per request; False when this request was taken before."""
        key = {"transactions": "ref", "transfers": "id"}[table]
        with self.together():
            new = self._db.execute(
                "insert into refunds values (?, ?, ?) on conflict do nothing", (request, subject, amount)
            ).rowcount
            if new:
                self._db.execute(
                    f"update {table} set refunded = refunded + ? where {key} = ?",  # noqa: S608
                    (amount, subject),
                )
        return bool(new)

    def refunded(self, request: str) -> bool:
        """Whether a refund with this request id was taken on."""
        return self._one("select 1 from refunds where request = ?", request) is not None

    def notify(self, kind: str, subject: str, payload: dict[str, Any], *, due: float, repeats: int) -> None:
        """Queues a notice for the merchant."""
        self._db.execute(
            "insert into notices (kind, subject, payload, due, repeats) values (?, ?, ?, ?, ?)",
            (kind, subject, json.dumps(payload), due, repeats),
        )

    def due_notices(self) -> list[Notice]:
        """Notices to be sent now, oldest first."""
        return self._notices("done = 0 and due <= ? order by due limit 20", time.time())

    def notices(self, subject: str) -> list[Notice]:
        """All notices about a transaction or transfer, with the answers they got."""
        return self._notices("subject = ? order by id", subject)

    def next_due(self) -> float | None:
        """When the next notice is to be sent (Unix seconds)."""
        row = self._one("select min(due) from notices where done = 0")
        return None if row[0] is None else float(row[0])

    def answered(self, notice: Notice, answer: str, *, again: float | None, repeat: bool) -> None:
        """Notes an answer; `again`: when to send once more, None: never; `repeat` uses up one repetition."""
        self._db.execute(
            "update notices set tries = tries + 1, answers = ?, repeats = repeats - ?, done = ?, due = ? "
            "where id = ?",
            (json.dumps([*notice.answers, answer]), int(repeat), int(again is None), again or 0.0, notice.id),
        )

    def _notices(self, where: str, value: str | float) -> list[Notice]:
        rows = self._db.execute(
            f"select id, kind, subject, payload, tries, repeats, answers from notices where {where}",  # noqa: S608
            (value,),
        )
        return [Notice(**{**dict(row), "answers": json.loads(row["answers"])}) for row in rows]

    def _one(self, sql: str, *values: Any) -> Any:
        return self._db.execute(sql, values).fetchone()
