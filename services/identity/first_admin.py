"""Makes the first admin of an installation and the root agency: `python -m identity.first_admin`, once.

An admin makes officials and the agencies below their own; somebody has to begin. The command takes the
settings of identity and FIRST_ADMIN_…, asks for the password (or reads one line of standard input), and works
only while there is no admin. It needs the database alone; what it did is announced by the service, when that
runs. Called again with the same settings it goes on where a crash had left it, or changes nothing.

Several at once make one: the id of the account is reserved first, the account is stored under it by whoever
comes first, and the agency is made for that account only.
"""

from __future__ import annotations

import asyncio
import getpass
import itertools
import sys
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn

from pydantic import ValidationError
from pydantic_settings import SettingsError

from identity.bootstrap import FirstAdminSettings, IdentitySettings, passwords_of
from identity.domain.accounts import Account, Kind, RoleGrant, official_details
from identity.domain.agencies import Agency, agency_details
from identity.domain.identifiers import Identifier
from identity.passwords import Passwords
from identity.store import Names, account_store, agency_store
from kit import clock, mongo, telemetry
from kit.errors import DomainError, InvalidInput
from kit.ids import uuid7
from kit.settings import CannotStart

_NEEDED = ("username", "name", "agency", "agency_name")


async def make_first_admin(
    settings: IdentitySettings,
    wanted: FirstAdminSettings,
    ask: Callable[[], str],
    now: clock.Clock = clock.now,
) -> str:
    """Makes them; answers a line that says what is there now. `ask` gives the password when one is needed.

    Raises CannotStart when there is another admin or a setting is missing, InvalidInput for one that is
    wrong, AlreadyExists (USERNAME_TAKEN).
    """
    missing = [
        f"FIRST_ADMIN_{name.upper()}" for name in _NEEDED if not getattr(wanted, f"first_admin_{name}")
    ]
    if missing:
        raise CannotStart("set " + ", ".join(missing))
    code = wanted.first_admin_agency
    details = agency_details(
        code,
        name=wanted.first_admin_agency_name,
        name_en=wanted.first_admin_agency_name_en,
        level=wanted.first_admin_agency_level,
        parent="",
        valid_from=wanted.first_admin_agency_since or now().astimezone(clock.VIETNAM).date().isoformat(),
        valid_to="",
        successor="",
        address="",
        phone="",
        reception=False,
    )
    database = mongo.connect(settings.mongodb_url, settings.mongodb_database or "motcua_identity")
    passwords = passwords_of(settings)
    try:
        kind = await mongo.kind_of(database)
        if settings.environment == "production" and kind not in ("replica set", "sharded"):
            raise CannotStart(f"production needs a MongoDB replica set; MONGODB_URL leads to a {kind}")
        accounts, agencies = account_store(database), agency_store(database)
        for store in (accounts, agencies):
            await store.prepare()
        existing = await agencies.find(code)
        if existing is not None and existing.details.parent:
            raise CannotStart(f"{code} is below {existing.details.parent}; name an agency with none above it")
        found = [it async for it in accounts.scan({"state.kind": Kind.OFFICIAL.value}) if _rules(it, now())]
        ours = [it for it in found if _is_wanted(it, wanted)]
        if not found:
            names = Names(database, accounts, now)
            ours = [await _account(accounts, names, passwords, wanted, ask, now)]
        if not ours or not _is_wanted(ours[0], wanted):
            raise CannotStart(
                "there is an admin already; admins make officials and the agencies below theirs"
            )
        await agencies.create(lambda new: Agency.new(new, details), id=code)
        return f"{ours[0].username} is admin of {code}, {'as before' if found else 'and can sign in'}"
    finally:
        passwords.close()
        database.client.close()


async def _account(
    accounts: mongo.Store[Account],
    names: Names,
    passwords: Passwords,
    wanted: FirstAdminSettings,
    ask: Callable[[], str],
    now: clock.Clock,
) -> Account:
    """The account of the first admin, ours or that of somebody who was faster."""
    for turn in itertools.count():  # an earlier first admin may have lost the role since
        account_id = await names.propose(Identifier("first_admin", str(turn)), uuid7())
        stored = await accounts.find(account_id)
        if stored is None:
            break
        if _rules(stored, now()):
            return stored
    password = ask()
    name, username, phone, email = official_details(
        name=wanted.first_admin_name,
        username=wanted.first_admin_username,
        phone="",
        email="",
        password=password,
    )
    password_hash = await passwords.hash(password)
    await names.take([Identifier("username", username)], account_id)
    stored = await accounts.create(
        lambda new: Account.of_official(
            new,
            name=name,
            username=username,
            email=email,
            phone=phone,
            roles=(RoleGrant(wanted.first_admin_agency, "admin"),),
            password_hash=password_hash,
            mark="first admin",
            now=now(),
        ),
        id=account_id,
    )
    if stored.username != username:
        await names.release([Identifier("username", username)], account_id)
    return stored


def _rules(account: Account, at: datetime) -> bool:
    """Whether the account is an admin, now or from some day on."""
    today = at.astimezone(clock.VIETNAM).date()
    return any(
        role.name == "admin" and (role.valid_to is None or today <= role.valid_to) for role in account.roles
    )


def _is_wanted(account: Account, wanted: FirstAdminSettings) -> bool:
    return account.username == wanted.first_admin_username.strip().lower() and any(
        role.name == "admin" and role.agency == wanted.first_admin_agency for role in account.roles
    )


def read_password() -> str:
    """The password, typed twice at a terminal, else the first line of standard input. Raises CannotStart."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password of the first admin: ")
    if getpass.getpass("The same again: ") != password:
        raise CannotStart("the two are not the same; nothing was made")
    return password


def main() -> NoReturn:
    """The command. Ends with 0, also when all was there already; with 2 and one line when it cannot."""
    try:
        settings, wanted = IdentitySettings(), FirstAdminSettings()
        telemetry.setup(settings, "identity")
        print(asyncio.run(make_first_admin(settings, wanted, read_password)))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        _fail(f"bad setting: {wrong}")
    except InvalidInput as error:
        _fail("; ".join(f"{v.field}: {v.description}" for v in error.violations) or str(error))
    except (CannotStart, DomainError, SettingsError, EOFError) as error:
        _fail(str(error) or "no password was given")
    except KeyboardInterrupt:
        _fail("nothing was made")
    sys.exit(0)


def _fail(why: str) -> NoReturn:
    print(f"identity.first_admin: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
