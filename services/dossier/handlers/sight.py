"""Who sees a dossier or a document, and in what capacity somebody acts on a dossier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dossier.domain.document import Act, Document
from dossier.domain.dossier import Dossier
from dossier.domain.records import Actor
from dossier.domain.states import Party, State
from dossier.handlers import WORKING_ROLES, Ports, agencies_of, not_there
from kit.auth import Caller

_PAGES = 10  # of 200 uses each, looked through for an official's right to a document
_SERVICES = ("payment", "notify", "gateway", "dossier")


@dataclass(frozen=True)
class View:
    """A dossier and the one who looks at it, in the capacities that this one has."""

    dossier: Dossier
    actor: Actor


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
        return [View(d, actor(caller, d, speaks=False)) for d in dossiers if office_sees(caller, d)]
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
    dossier = await ports.dossiers.find(id)
    seen = [] if dossier is None else await look(ports, caller, [dossier])
    if not seen:
        raise not_there(id)
    return seen[0]


async def visible_documents(
    ports: Ports, caller: Caller, documents: Iterable[Document]
) -> tuple[list[Document], dict[str, Dossier]]:
    """Those of the documents that the caller may see; for an official also by which dossier each."""
    documents = list(documents)
    if caller.kind == "service":
        return [d for d in documents if caller.subject in _SERVICES], {}
    if caller.kind == "citizen":
        owners = {document.owner for document in documents}
        mine = {owner for owner in owners if await speaks_for(ports, caller, owner, "VAULT")}
        return [d for d in documents if d.owner in mine and not hidden(caller, d)], {}
    through = await _dossiers_of(ports, caller, documents)
    desks = {role.agency for role in caller.roles if role.name == "reception"}
    return [d for d in documents if d.id in through or (d.desk and d.desk in desks)], through


async def _dossiers_of(ports: Ports, caller: Caller, documents: list[Document]) -> dict[str, Dossier]:
    """For each document a dossier of the official's agency that it is used in or is the result of."""
    if not documents or not agencies_of(caller):
        return {}
    wanted: list[tuple[str, str]] = []
    used = {"document": {"$in": [document.id for document in documents]}, "act": Act.USE.value}
    token = ""
    for _ in range(_PAGES):
        uses = await ports.accesses.page(used, size=200, token=token)
        wanted += [(use.document, use.dossier) for use in uses.items]
        if not (token := uses.next_token):
            break
    wanted += [(document.id, document.dossier) for document in documents if document.dossier]
    known = {d.id: d for d in await ports.dossiers.batch([dossier for _, dossier in wanted])}
    return {
        document: known[dossier]
        for document, dossier in wanted
        if dossier in known and office_sees(caller, known[dossier])
    }
