"""Demo agencies and accounts from a JSON file, for development and tests; loading it again adds nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from identity.domain.accounts import Account, Kind, official_details, registration, role_grants
from identity.domain.agencies import Agency, Level, agency_details
from identity.domain.identifiers import Identifier
from identity.domain.proof import DEMO, Proof
from identity.handlers.ports import Ports
from kit.ids import derived

log = logging.getLogger(__name__)


async def load(ports: Ports, seed: Mapping[str, Any]) -> None:
    """Adds what is not there yet: `agencies`, `officials`, `citizens`, all with its `password`.

    What is there stays as it is. Raises KeyError, ValueError, TypeError and InvalidInput when it is wrong.
    """
    for entry in seed["agencies"]:
        await _agency(ports, entry)
    added = 0
    for entry in seed["officials"]:
        added += await _official(ports, entry, seed["password"])
    for entry in seed["citizens"]:
        added += await _citizen(ports, entry, seed["password"])
    log.info("the seed added %d accounts", added)


async def _agency(ports: Ports, entry: Mapping[str, Any]) -> None:
    details = agency_details(
        entry["code"],
        name=entry["name"],
        name_en=entry.get("name_en", ""),
        level=Level(entry["level"]),
        parent=entry.get("parent", ""),
        valid_from=entry["valid_from"],
        valid_to=entry.get("valid_to", ""),
        successor=entry.get("successor", ""),
        address=entry.get("address", ""),
        phone=entry.get("phone", ""),
        reception=entry.get("reception", False),
    )
    await ports.agencies.create(lambda code: Agency.new(code, details), id=entry["code"])


async def _official(ports: Ports, entry: Mapping[str, Any], password: str) -> bool:
    name, username, phone, email = official_details(
        name=entry["name"],
        username=entry["username"],
        phone=entry.get("phone", ""),
        email=entry.get("email", ""),
        password=password,
    )
    roles = role_grants([(agency, role, "", "") for agency, role in entry["roles"]])

    def make(account_id: str, password_hash: str) -> Account:
        return Account.of_official(
            account_id,
            name=name,
            username=username,
            email=email,
            phone=phone,
            roles=roles,
            password_hash=password_hash,
            mark="seed",
            now=ports.clock(),
        )

    return await _add(ports, [Identifier("username", username)], make, password)


async def _citizen(ports: Ports, entry: Mapping[str, Any], password: str) -> bool:
    who = registration(
        kind=Kind(entry.get("kind", "person")),
        name=entry["name"],
        citizen_number=entry.get("citizen_number", ""),
        tax_code=entry.get("tax_code", ""),
        phone=entry.get("phone", ""),
        email=entry.get("email", ""),
        locale=entry.get("locale", "vi"),
        now=ports.clock(),
        contact_required=False,
        password=password,
    )

    def make(account_id: str, password_hash: str) -> Account:
        return Account.signed_up(
            account_id,
            who,
            password_hash=password_hash,
            representative="",
            mark="seed",
            now=ports.clock(),
            proof=Proof(DEMO, ports.clock()),
            contacts_verified=True,
        )

    return await _add(ports, who.identifiers, make, password)


async def _add(
    ports: Ports, names: Sequence[Identifier], make: Callable[[str, str], Account], password: str
) -> bool:
    account_id = await ports.names.propose(names[0], derived("seed", names[0].key))
    there = await ports.accounts.find(account_id)
    if there is not None:
        if there.mark == "seed" and there.unproven_number is not None:  # of a release that knew no proof
            proof, name = Proof(DEMO, ports.clock()), there.name
            await ports.accounts.change(account_id, lambda it: it.prove(proof, name))
        return False
    await ports.names.take(names, account_id)
    password_hash = await ports.passwords.hash(password)
    await ports.accounts.create(lambda new: make(new, password_hash), id=account_id)
    return True
