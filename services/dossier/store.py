"""Dossiers, documents and their company in MongoDB, what their events tell others, and the codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf.message import Message

from dossier import wire
from dossier.domain.document import Access, Blob, Document, Noted, Upload, UploadState
from dossier.domain.dossier import Dossier, dossier_code
from dossier.domain.records import Happened
from dossier.domain.sight import Sight
from dossier.domain.storage import Storage
from dossier.handlers.overview import NEVER, scalars
from kit import clock, mongo
from kit.mongo import Database, Index, Store
from motcua.dossier.v1 import events_pb2 as ev


@dataclass(frozen=True)
class Stores:
    """The collections of this service."""

    dossiers: Store[Dossier]
    documents: Store[Document]
    uploads: Store[Upload]
    accesses: Store[Access]
    sights: Store[Sight]
    blobs: Store[Blob]
    storages: Store[Storage]

    def all(self) -> tuple[Store[Any], ...]:
        return (
            self.dossiers,
            self.documents,
            self.uploads,
            self.accesses,
            self.sights,
            self.blobs,
            self.storages,
        )


def open_stores(database: Database, now: clock.Clock = clock.now) -> Stores:
    """The collections with their indexes: equality first, the order of the list last."""
    return Stores(
        dossiers=Store(
            database,
            "dossiers",
            Dossier,
            announce=announce_dossier,
            scalars=scalars,
            indexes=[
                Index("applicant", "created"),
                Index("applicant", "status", "created"),
                Index("agency", "status", "due", "created"),
                Index("assignee", "status", "due"),
                Index("receiving", "received_on", "finished_on"),
                Index("receiving", "finished_on", "timeliness"),
            ],
            context="dossier",
            now=now,
        ),
        documents=Store(
            database,
            "documents",
            Document,
            announce=announce_document,
            scalars=document_scalars,
            indexes=[
                Index("owner", "created"),
                Index("owner", "type", "created"),
                Index("checking", "created"),
                Index("checking", "checking_since", "created"),
            ],
            context="dossier",
            now=now,
        ),
        uploads=Store(
            database,
            "uploads",
            Upload,
            scalars=lambda u: {"owner": u.owner, "open": int(u.state is UploadState.OPEN)},
            indexes=[Index("owner", "open"), Index("open", "created")],
            now=now,
        ),
        accesses=Store(
            database,
            "accesses",
            Access,
            scalars=lambda a: {"document": a.document, "act": a.act.value, "owner": a.owner},
            indexes=[
                Index("document", "created"),
                Index("document", "act", "created"),
                Index("owner", "created"),
            ],
            now=now,
        ),
        sights=Store(
            database,
            "sights",
            Sight,
            scalars=lambda s: {
                "holder": s.holder,
                "subject": s.subject,
                "dossier": s.dossier,
                "until": clock.to_text(s.until) if s.until else NEVER,
            },
            indexes=[Index("subject", "holder", "until", "created"), Index("dossier", "created")],
            now=now,
        ),
        blobs=Store(database, "blobs", Blob, now=now),
        storages=Store(
            database,
            "storages",
            Storage,
            scalars=lambda s: {"reserving": int(bool(s.reserved)), "recount": clock.to_text(s.recount)},
            indexes=[Index("reserving", "created"), Index("recount", "created")],
            now=now,
        ),
    )


def document_scalars(d: Document) -> dict[str, Any]:
    """What lists of documents filter and order by."""
    since = [version.created for version in d.held_back]
    return {
        "owner": d.owner,
        "type": d.details.type,
        "checking": int(bool(since)),
        "checking_since": clock.to_text(min(since)) if since else "",
    }


class MongoCodes:
    """Dossier codes. A code is first reserved for the dossier, then the dossier for the code: a crash between
    the two leaves a gap in the numbers, never a dossier with two codes or a code with two dossiers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._codes = database["dossier_codes"]
        self._holders = database["dossiers_coded"]

    async def assign(self, dossier: str, agency: str, at: datetime) -> str:
        """The code of this dossier: the one it has been given, else the next of that agency and day."""
        stored = await mongo.patiently(lambda: self._holders.find_one({"_id": dossier}))
        if stored is not None:
            return str(stored["value"])
        while True:
            day = dossier_code(agency, at, 0).removesuffix("-0000")
            code = dossier_code(agency, at, await mongo.counter(self._database, f"dossier:{day}"))
            if await mongo.reserve(self._codes, code, dossier) == dossier:
                return await mongo.reserve(self._holders, dossier, code)

    async def holder(self, code: str) -> str:
        """The dossier that has the code; empty for none."""
        stored = await mongo.patiently(lambda: self._codes.find_one({"_id": code}))
        return "" if stored is None else str(stored["value"])


def announce_dossier(d: Dossier, event: Happened) -> Message:
    """The message of an event. Both are written together, so the details are the dossier's."""
    return _DOSSIER_EVENTS[event.name](d, _ref(d, event), event)


def announce_document(d: Document, event: Noted) -> Message:
    """The message of an event of a document."""
    if event.name == "DocumentVersionAdded":
        return ev.DocumentVersionAdded(document_id=d.id, owner_id=d.owner, version=d.newest.number)
    if event.name == "DocumentChecked":
        version = d.version(event.version) or d.newest
        return ev.DocumentChecked(
            document_id=d.id,
            owner_id=d.owner,
            version=version.number,
            title=d.details.title,
            check=wire.check(version),
            added_by_id=version.added_by,
            dossier_id=d.dossier,
        )
    if event.name == "DocumentVerified":
        return ev.DocumentVerified(
            document_id=d.id,
            owner_id=d.owner,
            title=d.details.title,
            trust=d.trust.value,  # type: ignore[arg-type]
            agency=event.agency,
        )
    return ev.DocumentAdded(
        document_id=d.id,
        owner_id=d.owner,
        type=d.details.type,
        title=d.details.title,
        trust=d.trust.value,  # type: ignore[arg-type]
        dossier_id=d.dossier,
    )


def _ref(d: Dossier, event: Happened) -> ev.DossierRef:
    return ev.DossierRef(
        dossier_id=d.id,
        code=d.code,
        procedure_code=d.procedure,
        procedure_version=d.version,
        procedure_name=d.procedure_name,
        applicant_id=d.applicant,
        filed_by_id=d.filed_by,
        receiving_agency=d.receiving_agency,
        deciding_agency=d.deciding_agency,
        current_agency=d.current_agency,
        state=wire.state(d.state),
        channel=d.channel.value,  # type: ignore[arg-type]
        due_time=wire.stamp(d.due),
        deadline_time=wire.stamp(d.deadline),
        actor_id=event.actor,
        actor_agency=event.agency,
    )


def _payment_requested(d: Dossier, ref: ev.DossierRef, event: Happened) -> Message:
    charge = d.charges[-1]
    return ev.PaymentRequested(
        dossier=ref,
        charge_id=charge.id,
        lines=[wire.fee_line(line) for line in charge.lines],
        total=charge.total,
        currency=charge.lines[0].currency,
        refundable_on_rejection=charge.refundable,
    )


def _closed(
    kind: type[ev.DossierRejected] | type[ev.DossierStopped] | type[ev.DossierWithdrawn], *, refunds: bool
) -> Callable[[Dossier, ev.DossierRef, Happened], Message]:
    """What an agency refuses or stops is refunded by the procedure's rule; what is taken back is not."""

    def make(d: Dossier, ref: ev.DossierRef, event: Happened) -> Message:
        return kind(
            dossier=ref,
            reason=d.closing_reason,
            charge_ids=[charge.id for charge in d.charges],
            refundable=refunds and any(charge.refundable for charge in d.charges),
        )

    return make


_DOSSIER_EVENTS: dict[str, Callable[[Dossier, ev.DossierRef, Happened], Message]] = {
    "DossierSubmitted": lambda d, ref, e: ev.DossierSubmitted(dossier=ref),
    "DossierReceived": lambda d, ref, e: ev.DossierReceived(
        dossier=ref, receipt=wire.receipt(d.receipt) if d.receipt else None
    ),
    "DossierRejected": _closed(ev.DossierRejected, refunds=True),
    "SupplementRequested": lambda d, ref, e: ev.SupplementRequested(
        dossier=ref, supplement=wire.supplement(d.supplement) if d.supplement else None
    ),
    "DossierSupplemented": lambda d, ref, e: ev.DossierSupplemented(dossier=ref),
    "PaymentRequested": _payment_requested,
    "PaymentSettled": lambda d, ref, e: ev.PaymentSettled(dossier=ref, charge_id=e.detail["charge"]),
    "FeeGivenBack": lambda d, ref, e: ev.FeeGivenBack(
        dossier=ref, charge_id=e.detail["charge"], amount=int(e.detail["amount"]), needed=d.fee_is_needed
    ),
    "DossierHandedOff": lambda d, ref, e: ev.DossierHandedOff(
        dossier=ref, hand_over=wire.hand_over(d.hand_overs[-1])
    ),
    "StepCompleted": lambda d, ref, e: ev.StepCompleted(
        dossier=ref, hand_over=wire.hand_over(d.hand_overs[-1])
    ),
    "DeadlineExtended": lambda d, ref, e: ev.DeadlineExtended(
        dossier=ref, apology=wire.apology(d.apology) if d.apology else None
    ),
    "WithdrawalRequested": lambda d, ref, e: ev.WithdrawalRequested(dossier=ref, reason=d.closing_reason),
    "WithdrawalDeclined": lambda d, ref, e: ev.WithdrawalDeclined(dossier=ref, reason=d.transitions[-1].note),
    "DossierWithdrawn": _closed(ev.DossierWithdrawn, refunds=False),
    "DossierStopped": _closed(ev.DossierStopped, refunds=True),
    "ResultSigned": lambda d, ref, e: ev.ResultSigned(dossier=ref, document_id=e.detail["document"]),
    "ResultHandedOver": lambda d, ref, e: ev.ResultHandedOver(dossier=ref, document_ids=d.results),
    "DossierRated": lambda d, ref, e: ev.DossierRated(dossier=ref, rating=d.rating),
}
