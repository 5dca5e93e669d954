"""Who sees a dossier or a document, and in what capacity somebody acts on a dossier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from dossier.domain.document import Document
from dossier.domain.dossier import Dossier
from dossier.domain.records import Actor, rules_on
from dossier.domain.sight import Sight, is_held
from dossier.domain.states import Party, State
from dossier.handlers import WORKING_ROLES, Ports, agencies_of, not_there
from kit.auth import Caller
from kit.clock import to_text

_MOST_SIGHTS = 200  # rights that one query answers
_SERVICES = ("payment", "notify", "gateway", "dossier")


@dataclass(frozen=True)
class View:
    """A dossier and the one who looks at it, in the capacities that this one has. `whole` is false for an
    official whose agency once had it and who has no need to know what the applicant wrote any more."""

    dossier: Dossier
    actor: Actor
    whole: bool = True


async def speaks_for(ports: Ports, caller: Caller, applicant: str, *scopes: str) -> bool:
    """Whether the caller is the applicant or holds a delegation with one of the scopes, for which it must be
    proven who the caller is."""
    if caller.kind != "citizen":
        return False
    if caller.subject == applicant:
        return True
    if not caller.verified:
        return False
    for scope in scopes:
        if await ports.identity.may_act(applicant, caller.subject, scope):
            return True
    return False


def hidden(caller: Caller, made: Dossier | Document) -> bool:
    """Whether it came into being for whom a citizen claims to be, while nobody has proven that.

    So are dossiers that a desk filed, documents that it scanned, and results.
    """
    if caller.kind != "citizen" or caller.verified:
        return False
    return made.assisted if isinstance(made, Dossier) else bool(made.desk or made.dossier)


def actor(caller: Caller, dossier: Dossier, *, speaks: bool) -> Actor:
    """The caller as an actor on this dossier, as it is now."""
    if caller.kind == "citizen":
        return Actor(caller.subject, frozenset({Party.APPLICANT}) if speaks else frozenset())
    if caller.kind == "service":
        return Actor(caller.subject, frozenset({Party.PAYMENT} if caller.subject == "payment" else ()))
    roles = [(role.agency, role.name) for role in caller.roles]
    held = {agency for agency, role in roles if role in WORKING_ROLES}
    candidates = (dossier.current_agency, dossier.receiving_agency, dossier.support_point, *dossier.agencies)
    agency = next((known for known in candidates if known in held), "")
    return Actor(caller.subject, dossier.parties(roles), agency)


def office_sees(caller: Caller, dossier: Dossier) -> bool:
    """Officials see what their agency holds or held, and drafts that their desk files for somebody."""
    if caller.kind != "official":
        return False
    if dossier.state is State.DRAFT:
        return Party.DESK in dossier.parties([(role.agency, role.name) for role in caller.roles])
    desk = [dossier.support_point] if dossier.assisted else []
    return not set(agencies_of(caller)).isdisjoint([*dossier.agencies, *desk])


async def look(ports: Ports, caller: Caller, dossiers: Iterable[Dossier]) -> list[View]:
    """Those of the dossiers that are the caller's business, as the caller sees them. Identity is asked once
    for each applicant, however many dossiers there are."""
    dossiers = list(dossiers)
    if caller.kind == "service":
        seen = dossiers if caller.subject in _SERVICES else []
        return [View(d, actor(caller, d, speaks=False)) for d in seen]
    if caller.kind == "official":
        there = [d for d in dossiers if office_sees(caller, d)]
        at, own = ports.clock(), agencies_of(caller)
        past = {d.id for d in there if d.state is not State.DRAFT and not is_held(d, own, at)}
        known = await sights(ports, caller, past)
        return [
            View(d, actor(caller, d, speaks=False), whole=d.id not in past or d.id in known) for d in there
        ]
    files, reads = set[str](), set[str]()
    for applicant in {dossier.applicant for dossier in dossiers}:
        if await speaks_for(ports, caller, applicant, "FILE"):
            files.add(applicant)
        elif await speaks_for(ports, caller, applicant, "READ"):
            reads.add(applicant)
    return [
        View(d, actor(caller, d, speaks=d.applicant in files))
        for d in dossiers
        if (d.applicant in files or d.applicant in reads) and not hidden(caller, d)
    ]


async def open_dossier(ports: Ports, caller: Caller, id: str) -> View:
    """The dossier, if the caller may see it. Raises NotFound."""
    seen = await find_dossier(ports, caller, id)
    if seen is None:
        raise not_there(id)
    return seen


async def find_dossier(ports: Ports, caller: Caller, id: str) -> View | None:
    """The dossier, or None where there is none or the caller may not see it."""
    dossier = await ports.dossiers.find(id)
    seen = [] if dossier is None else await look(ports, caller, [dossier])
    return seen[0] if seen else None


async def sights(ports: Ports, caller: Caller, subjects: Iterable[str]) -> dict[str, Sight]:
    """For each account, document or dossier that the official needs to know now, a right to it.

    This decides for identifiers and documents alike. It is one query of an index; where rights to some of the
    subjects fill its page, each of the rest is asked for alone, so that none is left out.
    """
    wanted = list(dict.fromkeys(subject for subject in subjects if subject))
    holders = [*agencies_of(caller), caller.subject]
    if caller.kind != "official" or not wanted:
        return {}
    now = to_text(ports.clock())

    async def ask(some: list[str], size: int) -> bool:
        asked = {"subject": {"$in": some}, "holder": {"$in": holders}, "until": {"$gte": now}}
        page = await ports.sights.page(asked, size=size, order="+until")
        found.update({sight.subject: sight for sight in page.items})
        return bool(page.next_token)

    found: dict[str, Sight] = {}
    if await ask(wanted, _MOST_SIGHTS):
        for subject in wanted:
            if subject not in found:
                await ask([subject], 1)
    return found


async def visible_documents(
    ports: Ports, caller: Caller, documents: Iterable[Document]
) -> tuple[list[Document], dict[str, str]]:
    """Those of the documents that the caller may see; for an official also by which dossier each."""
    documents = list(documents)
    if caller.kind == "service":
        return [d for d in documents if caller.subject in _SERVICES], {}
    if caller.kind == "citizen":
        owners = {document.owner for document in documents}
        mine = {owner for owner in owners if await speaks_for(ports, caller, owner, "VAULT")}
        return [d for d in documents if d.owner in mine and not hidden(caller, d)], {}
    known = await sights(ports, caller, [id for d in documents for id in (d.id, d.dossier)])
    through = {d.id: known[id].dossier for d in documents for id in (d.dossier, d.id) if id in known}
    return [d for d in documents if d.id in through or _scanned_here(ports, caller, d)], through


def _scanned_here(ports: Ports, caller: Caller, document: Document) -> bool:
    """Whether the caller's desk scanned it, not too long ago: there may be no dossier yet."""
    at = ports.clock()
    recent = at <= document.created + timedelta(days=rules_on(at).sight_days)
    return recent and bool(document.desk) and caller.has("reception", document.desk)
