"""Identity in MongoDB: four collections of aggregates, who has which identifier, and counters of tries."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from identity.domain import accounts, agencies, delegations, sessions
from identity.domain.accounts import Account
from identity.domain.agencies import Agency
from identity.domain.delegations import Delegation
from identity.domain.identifiers import Identifier
from identity.domain.one_time import OneTime, Purpose
from identity.domain.second_factor import SecondFactorChanged
from identity.domain.sessions import Session
from identity.handlers.ports import Challenge, Ended, PendingSignIn
from identity.messages import (
    agency_message,
    change_message,
    delegation_message,
    kind_message,
    proof_kind_message,
    purpose_message,
    role_messages,
    timestamp,
    way_message,
)
from kit.clock import Clock, from_text, to_text
from kit.errors import AlreadyExists, RateLimited
from kit.ids import derived
from kit.mongo import Collection, Database, Document, Index, Store, patiently, reserve
from kit.plain import from_plain, to_plain
from motcua.identity.v1 import events_pb2 as announced
from motcua.identity.v1 import identity_pb2 as pb

T = TypeVar("T", PendingSignIn, Challenge)
CONTEXT: Final = "identity"
_MOST_ENDED: Final = 5_000  # ended sessions told at once, the newest; each cost a password hash to begin
DEVICE_ACCOUNTS: Final = 20  # accounts that are looked up of one device
DEVICE_DAYS: Final = 180  # days without a sign-in after which a device is not known any more
_LONGEST_PAUSE: Final = 900  # seconds between two tries at worst: a hundred guesses a day
_FOREVER: Final = "9999-12-31"
_ABANDONED: Final = timedelta(minutes=2)  # far longer than a registration may take


def account_store(database: Database) -> Store[Account]:
    """Accounts. They are found by identifier through `Names`; those that nobody proved also by the number
    that they claim, which several may."""
    return Store(
        database,
        "accounts",
        Account,
        announce=_account_event,
        scalars=lambda account: {
            "claim": claim.key if (claim := account.unproven_number) else "",
            "ended_at": to_text(account.ended) if account.ended else "",
            "epoch": account.epoch,
            "kept_session": account.kept_session,
        },
        indexes=[
            Index("claim", "created"),
            Index("ended_at"),
        ],
        context=CONTEXT,
    )


def agency_store(database: Database) -> Store[Agency]:
    """Agencies, listed by level and the days they exist."""
    return Store(
        database,
        "agencies",
        Agency,
        announce=_agency_event,
        scalars=lambda agency: {
            "level": agency.details.level,
            "valid_from": agency.details.valid_from,
            "valid_until": agency.details.valid_to or _FOREVER,
        },
        indexes=[Index("level", "created"), Index("created")],
        context=CONTEXT,
    )


def delegation_store(database: Database) -> Store[Delegation]:
    """Delegations, listed by either side."""
    return Store(
        database,
        "delegations",
        Delegation,
        announce=_delegation_event,
        scalars=lambda delegation: {
            "principal": delegation.principal,
            "delegate": delegation.delegate,
            # A release that knew no acceptance takes for begun whatever is not revoked here.
            "revoked": int(delegation.revoked is not None or delegation.accepted is None),
            "target": delegation.target,
        },
        indexes=[
            Index("principal", "created"),
            Index("delegate", "created"),
            Index("principal", "target", "created"),
            Index("principal", "delegate", "created"),
        ],
        context=CONTEXT,
    )


def session_store(database: Database) -> Store[Session]:
    """Sessions, listed by account; `forget_sessions` deletes them once they are over."""
    return Store(
        database,
        "sessions",
        Session,
        announce=_session_event,
        scalars=lambda session: {
            "account": session.account,
            "live": int(session.live),
            "until": session.until,
            "ended_at": to_text(session.revoked) if session.revoked else "",
        },
        indexes=[Index("account", "created"), Index("until"), Index("ended_at")],
        context=CONTEXT,
    )


async def ended_since(database: Database, since: datetime) -> list[Ended]:
    """The sessions, and the accounts all of whose sessions, ended since then: the newest of each."""

    async def newest(name: str) -> list[Document]:
        shown = ("ended_at", "epoch", "kept_session")
        lately = database[name].find({"ended_at": {"$gte": to_text(since)}}, dict.fromkeys(shown, 1))
        lately = lately.sort("ended_at", DESCENDING)
        return await patiently(lambda: lately.clone().limit(_MOST_ENDED).to_list(None))

    ended = [Ended(from_text(one["ended_at"]), session=one["_id"]) for one in await newest("sessions")]
    ended += [
        Ended(from_text(one["ended_at"]), account=one["_id"], epoch=one["epoch"], kept=one["kept_session"])
        for one in await newest("accounts")
    ]
    return ended


async def forget_sessions(database: Database, before: datetime) -> int:
    """Deletes sessions that could not be used any more at that instant; answers how many.

    One that still has something to announce stays for the next time.
    """
    over = {"until": {"$lt": to_text(before)}, "outbox_pending": 0}
    return (await patiently(lambda: database["sessions"].delete_many(over))).deleted_count


@dataclass(frozen=True)
class Names:
    """Which account an identifier names: one document an identifier, `{_id: key, value: account|since}`.

    The reservation comes first and the account after it, so a crash in between leaves a reservation whose
    account is not there, or does not have the identifier. Its own maker goes on with it, and renews it when
    it is old; anybody else may take it over when it is older than any registration takes. Whoever the
    reservation names is the one who signs in by the identifier.
    """

    database: Database
    accounts: Store[Account]
    clock: Clock

    @property
    def _collection(self) -> Collection:
        return self.database["names"]

    async def holder(self, name: Identifier) -> str | None:
        """The account that the identifier is reserved for, whether or not it exists."""
        found = await patiently(lambda: self._collection.find_one({"_id": name.key}))
        return _account_in(found["value"]) if found else None

    async def propose(self, name: Identifier, account: str) -> str:
        """Reserves the identifier unless it is reserved already; answers the account that has it now."""
        return _account_in(await reserve(self._collection, name.key, self._value(account)))

    async def take(self, names: Sequence[Identifier], account: str) -> None:
        """Reserves all for the account. Raises AlreadyExists (`<TYPE>_TAKEN`) when another one has one."""
        for name in names:
            mine = self._value(account)
            stored = await reserve(self._collection, name.key, mine)
            age = self.clock() - from_text(stored.partition("|")[2])
            if _account_in(stored) == account:
                free = age < _ABANDONED / 2 or await self._replace(name, stored, mine)
            elif age < _ABANDONED or await self._in_use(name, _account_in(stored)):
                free = False
            else:
                free = await self._replace(name, stored, mine)
            if not free:
                raise AlreadyExists(f"{name.type.upper()}_TAKEN", "another account has it", field=name.type)

    async def release(self, names: Sequence[Identifier], account: str) -> None:
        """Gives up those that the account has."""
        for name in names:
            stored = await patiently(lambda name=name: self._collection.find_one({"_id": name.key}))  # type: ignore[misc]
            if stored is not None and _account_in(stored["value"]) == account:
                await patiently(lambda stored=stored: self._collection.delete_one(stored))  # type: ignore[misc]

    async def _in_use(self, name: Identifier, holder: str) -> bool:
        account = await self.accounts.find(holder)
        return account is not None and name in account.identifiers

    async def _replace(self, name: Identifier, stored: str, mine: str) -> bool:
        before, after = ({"_id": name.key, "value": value} for value in (stored, mine))
        await patiently(lambda: self._collection.replace_one(before, after))
        return await patiently(lambda: self._collection.find_one({"_id": name.key})) == after

    def _value(self, account: str) -> str:
        return f"{account}|{to_text(self.clock())}"


@dataclass(frozen=True)
class Limit:
    """How many tries are allowed in a window of so many seconds."""

    most: int
    window: int


@dataclass(frozen=True)
class Attempts:
    """Counts tries in windows of fixed length, in documents that all replicas share and that expire.

    Around the end of a window twice the limit may pass; that is still far too few to guess anything.
    """

    database: Database
    limits: Mapping[str, Limit]
    clock: Clock

    @property
    def _collection(self) -> Collection:
        return self.database["attempts"]

    async def prepare(self) -> None:
        """Makes the index by which old counters expire."""
        expiry = IndexModel([("expires", ASCENDING)], name="expires", expireAfterSeconds=0)
        await patiently(lambda: self._collection.create_indexes([expiry]))

    async def count(self, what: str, who: str) -> None:
        """One try more. Raises RateLimited with `retry_after` (seconds) when there were too many."""
        limit = self.limits[what]
        if await self._add(what, who, 1) > limit.most:
            wait = limit.window - int(self.clock().timestamp()) % limit.window
            raise RateLimited("TOO_MANY_ATTEMPTS", "too many tries; wait", retry_after=wait)

    async def slow(self, what: str, who: str) -> None:
        """One try more. After `most` each next one waits twice as long: seconds at first, a quarter of an
        hour at most; a quiet `window` forgets them. Raises RateLimited for one that comes too early."""
        limit, now = self.limits[what], self.clock()

        def next_try(tries: int, until: str) -> tuple[int, str]:
            if until > to_text(now):
                wait = max(1, math.ceil((from_text(until) - now).total_seconds()))
                raise RateLimited("TOO_MANY_ATTEMPTS", "too many tries; wait", retry_after=wait)
            over = tries + 1 - limit.most
            pause = min(2 ** min(over, 20), _LONGEST_PAUSE) if over >= 0 else 0
            return tries + 1, to_text(now + timedelta(seconds=pause)) if pause else ""

        await self._step(what, who, next_try)

    async def relax(self, what: str, who: str) -> None:
        """The last try was right: it is taken back, and nobody waits for it."""
        await self._step(what, who, lambda tries, _until: (max(0, tries - 1), ""))

    async def _step(self, what: str, who: str, step: Callable[[int, str], tuple[int, str]]) -> None:
        key, now = derived("tries", what, who), self.clock()
        while True:
            stored = await patiently(lambda: self._collection.find_one({"_id": key}))
            fresh = stored is not None and stored["expires"].replace(tzinfo=UTC) > now
            tries, until = step(*((stored["value"], stored["until"]) if stored and fresh else (0, "")))
            expires = now + timedelta(seconds=self.limits[what].window)
            wanted = {"_id": key, "value": tries, "until": until, "expires": expires}
            try:
                if stored is None:
                    await patiently(lambda: self._collection.insert_one(wanted))  # noqa: B023 - it is run at once
                    return
                held = {"_id": key, "value": stored["value"], "until": stored["until"]}
                if (await patiently(lambda: self._collection.replace_one(held, wanted))).matched_count:  # noqa: B023
                    return
            except DuplicateKeyError:
                pass  # another try was faster: it counts first

    async def forgive(self, what: str, who: str) -> None:
        """Takes one try back."""
        await self._add(what, who, -1)

    async def _add(self, what: str, who: str, by: int) -> int:
        window = self.limits[what].window
        started = int(self.clock().timestamp()) // window * window
        key = derived("attempts", what, who, str(started))
        expires = datetime.fromtimestamp(started + 2 * window, UTC)

        async def step() -> Document | None:
            try:
                await self._collection.insert_one({"_id": key, "value": by, "expires": expires})
            except DuplicateKeyError:
                return await self._collection.find_one_and_update(
                    {"_id": key}, {"$inc": {"value": by}}, return_document=ReturnDocument.AFTER
                )
            return {"value": by}

        while (stored := await patiently(step)) is None:
            pass  # it was there and has just expired
        return int(stored["value"])


@dataclass(frozen=True)
class Devices:
    """Which devices signed in to an account within DEVICE_DAYS: a document each, which expires."""

    database: Database
    clock: Clock

    @property
    def _collection(self) -> Collection:
        return self.database["devices"]

    async def prepare(self) -> None:
        """Makes the indexes by which they expire and are forgotten."""
        expiry = IndexModel([("expires", ASCENDING)], name="expires", expireAfterSeconds=0)
        account = IndexModel([("account", ASCENDING)], name="account")
        token = IndexModel([("token", ASCENDING)], name="token")
        await patiently(lambda: self._collection.create_indexes([expiry, account, token]))

    async def accounts(self, token_hash: str) -> list[str]:
        """Some of the accounts that the device with this token signed in to, at most DEVICE_ACCOUNTS."""
        if not token_hash:
            return []
        found = await patiently(
            lambda: self._collection.find({"token": token_hash}, limit=DEVICE_ACCOUNTS).to_list(
                DEVICE_ACCOUNTS
            )
        )
        now = self.clock()
        return [each["account"] for each in found if each["expires"].replace(tzinfo=UTC) > now]

    async def known(self, account: str, token_hash: str) -> bool:
        """Whether the device with this token is one of the account's."""
        key = derived("device", account, token_hash)
        found = await patiently(lambda: self._collection.find_one({"_id": key}))
        return found is not None and found["expires"].replace(tzinfo=UTC) > self.clock()

    async def remember(self, account: str, token_hash: str) -> None:
        """It signed in now."""
        key = {"_id": derived("device", account, token_hash)}
        expires = self.clock() + timedelta(days=DEVICE_DAYS)
        wanted = {**key, "account": account, "token": token_hash, "expires": expires}
        if not (await patiently(lambda: self._collection.replace_one(key, wanted))).matched_count:
            with contextlib.suppress(DuplicateKeyError):  # the same device twice at once
                await patiently(lambda: self._collection.insert_one(wanted))

    async def forget(self, account: str) -> None:
        """The account has no known device any more."""
        await patiently(lambda: self._collection.delete_many({"account": account}))


@dataclass(frozen=True)
class Waiting(Generic[T]):
    """What waits to be completed, such as a sign-in: one document each, `{_id: hash of a secret, …}`, which
    is deleted by whoever completes it and expires else."""

    database: Database
    name: str
    kind: type[T]

    @property
    def _collection(self) -> Collection:
        return self.database[self.name]

    async def prepare(self) -> None:
        """Makes the index by which those that nobody completed expire."""
        expiry = IndexModel([("expires", ASCENDING)], name="expires", expireAfterSeconds=0)
        await patiently(lambda: self._collection.create_indexes([expiry]))

    async def keep(self, id: str, waiting: T) -> None:
        """Keeps it until it expires."""
        document = {"_id": id, "value": to_plain(waiting), "expires": waiting.expires}

        async def step() -> None:
            with contextlib.suppress(DuplicateKeyError):  # our own write, whose answer was lost
                await self._collection.insert_one(dict(document))

        await patiently(step)

    async def take(self, id: str) -> T | None:
        """What was kept, for one caller once; after a broken connection perhaps for none."""
        found = await patiently(lambda: self._collection.find_one({"_id": id}))
        if found is None:
            return None
        gone = await patiently(lambda: self._collection.delete_one({"_id": id}))
        return from_plain(self.kind, found["value"]) if gone.deleted_count == 1 else None


@dataclass(frozen=True)
class OneTimes:
    """Secrets that serve once: one document each, `{_id: key, value, account, purpose, expires}`."""

    database: Database
    clock: Clock

    @property
    def _collection(self) -> Collection:
        return self.database["one_times"]

    async def prepare(self) -> None:
        """Makes the indexes by which they expire and are forgotten."""
        expiry = IndexModel([("expires", ASCENDING)], name="expires", expireAfterSeconds=0)
        account = IndexModel([("account", ASCENDING)], name="account")
        await patiently(lambda: self._collection.create_indexes([expiry, account]))

    async def keep(self, key: str, value: OneTime) -> None:
        """Keeps it until it expires, in place of what has the key."""
        wanted = self._document(key, value)
        if not (await patiently(lambda: self._collection.replace_one({"_id": key}, wanted))).matched_count:
            with contextlib.suppress(DuplicateKeyError):  # somebody asked twice at once
                await patiently(lambda: self._collection.insert_one(wanted))

    async def find(self, key: str) -> OneTime | None:
        """What was kept and has not expired."""
        found = await patiently(lambda: self._collection.find_one({"_id": key}))
        value = from_plain(OneTime, found["value"]) if found else None
        return value if value is not None and value.expires > self.clock() else None

    async def swap(self, key: str, held: OneTime, value: OneTime) -> bool:
        """Replaces what was read; False when it is another one by now."""
        before = {"_id": key, "hash": held.hash, "tries": held.tries}
        wanted = self._document(key, value)
        return bool((await patiently(lambda: self._collection.replace_one(before, wanted))).matched_count)

    async def take(self, key: str) -> OneTime | None:
        """What was kept, for one caller once; after a broken connection perhaps for none."""
        found = await self.find(key)
        if found is None:
            return None
        gone = await patiently(lambda: self._collection.delete_one({"_id": key}))
        return found if gone.deleted_count == 1 else None

    async def forget(self, account: str, purpose: Purpose) -> None:
        """None of the account's for that purpose serves any more."""
        own = {"account": account, "purpose": purpose.value}
        await patiently(lambda: self._collection.delete_many(own))

    @staticmethod
    def _document(key: str, value: OneTime) -> Document:
        return {
            "_id": key,
            "value": to_plain(value),
            "account": value.account,
            "purpose": value.purpose.value,
            "hash": value.hash,
            "tries": value.tries,
            "expires": value.expires,
        }


def _account_in(value: str) -> str:
    return value.partition("|")[0]


def _account_event(account: Account, event: object) -> Message | None:
    match event:
        case accounts.AccountOpened():
            return announced.AccountOpened(
                account_id=account.id,
                kind=kind_message(account.kind),
                name=account.name,
                email=account.email,
                phone=account.phone,
                locale=account.locale,
                at_counter=bool(account.opened_at),
                agency=account.opened_at,
            )
        case accounts.AccountClaimed():
            return announced.AccountClaimed(
                account_id=account.id, email=account.email, phone=account.phone, locale=account.locale
            )
        case accounts.ProfileChanged():
            return announced.ProfileChanged(
                account_id=account.id,
                name=account.name,
                email=account.email,
                phone=account.phone,
                locale=account.locale,
            )
        case accounts.AccountProven():
            return announced.AccountProven(
                account_id=account.id,
                name=account.name,
                kind=proof_kind_message(account.proof.kind if account.proof else ""),
                agency=account.proof.agency if account.proof else "",
            )
        case accounts.AccountDetached(agency=agency):
            return announced.AccountDetached(account_id=account.id, agency=agency)
        case accounts.RolesChanged():
            return announced.RolesChanged(account_id=account.id, roles=role_messages(account.roles))
        case accounts.ContactChanged(email=email, phone=phone, at=at):
            return announced.ContactChanged(
                account_id=account.id, old_email=email, old_phone=phone, change_time=timestamp(at)
            )
        case accounts.ContactUsed(at=at):
            return announced.ContactUsed(account_id=account.id, use_time=timestamp(at))
        case accounts.OneTimeSecretRequested(purpose=purpose, at=at):
            return announced.OneTimeSecretRequested(
                account_id=account.id, purpose=purpose_message(purpose), request_time=timestamp(at)
            )
        case SecondFactorChanged(change=change, at=at, way=way, by=by):
            return announced.SecondFactorChanged(
                account_id=account.id,
                change=change_message(change),
                way=way_message(way),
                change_time=timestamp(at),
                admin_id=by,
                recovery_codes_left=len(account.second.recovery),
            )
        case accounts.SessionsEnded(reason=reason):
            return announced.SessionsEnded(
                account_id=account.id,
                epoch=account.epoch,
                kept_session_id=account.kept_session,
                reason=reason,
                end_time=timestamp(account.ended) if account.ended else None,
            )
    raise TypeError(type(event).__name__)


def _agency_event(agency: Agency, event: object) -> Message | None:
    match event:
        case agencies.AgencyChanged():
            message = announced.AgencyChanged(agency=agency_message(agency))
            message.agency.ClearField("etag")  # known only once it is written
            return message
    raise TypeError(type(event).__name__)


def _delegation_event(delegation: Delegation, event: object) -> Message | None:
    match event:
        case delegations.DelegationRequested():
            return announced.DelegationRequested(delegation=_stated(delegation))
        case delegations.DelegationDeclined():
            return announced.DelegationDeclined(delegation=_stated(delegation))
        case delegations.DelegationGranted():
            return announced.DelegationGranted(delegation=_stated(delegation))
        case delegations.DelegationRevoked():
            return announced.DelegationRevoked(delegation=_stated(delegation))
    raise TypeError(type(event).__name__)


def _stated(delegation: Delegation) -> pb.Delegation:
    message = delegation_message(delegation, delegation.created)
    message.ClearField("etag")  # known only once it is written
    message.ClearField("state")  # which passes with time
    return message


def _session_event(session: Session, event: object) -> Message | None:
    match event:
        case sessions.SessionRevoked(reason=reason):
            return announced.SessionRevoked(
                session_id=session.id,
                account_id=session.account,
                reason=reason,
                revoke_time=timestamp(session.revoked) if session.revoked else None,
            )
    raise TypeError(type(event).__name__)
