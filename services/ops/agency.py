"""An agency and its officials, by an admin: `python -m ops.agency agency|official …`.

    agency CODE   makes the agency, or changes what is given; it is below the admin's own (--parent)
    official USER makes an account with roles, each AGENCY:ROLE (reception, clerk, cashier, examiner,
                  leader, admin)

It signs in as the admin ADMIN_USERNAME at IDENTITY_TARGET, so identity's own rules hold and its events tell
the rest. Passwords are asked for, or read as lines from standard input: the admin's, then for `official` the
new one's. Repeating a command changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from datetime import datetime
from typing import NoReturn

import grpc
from pydantic import Field, ValidationError

from kit.clock import VIETNAM
from kit.errors import DomainError, FailedPrecondition
from kit.grpc_client import Channel, connect
from kit.ids import derived
from kit.settings import CannotStart, Settings, wrong
from kit.status import from_rpc
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1.identity_pb2_grpc import IdentityServiceStub

LEVELS = {
    "ministry": pb.AGENCY_LEVEL_MINISTRY,
    "province": pb.AGENCY_LEVEL_PROVINCE,
    "commune": pb.AGENCY_LEVEL_COMMUNE,
}


class AgencySettings(Settings):
    """What `python -m ops.agency` can be told, besides where identity is."""

    admin_username: str = Field(default="", description="the admin who acts")


async def put_agency(channel: Channel, token: str, given: argparse.Namespace) -> str:
    """Makes or changes it; answers a line. What is not given stays as it is."""
    stub = IdentityServiceStub(channel)
    metadata = [("authorization", f"Bearer {token}")]
    known = await stub.BatchGetAgencies(pb.BatchGetAgenciesRequest(codes=[given.code]), metadata=metadata)
    today = datetime.now(VIETNAM).date().isoformat()
    agency = known.agencies[0] if known.agencies else pb.Agency(code=given.code, valid_from=today)
    for name in ("name", "name_en", "parent", "address", "phone", "valid_from", "valid_to", "successor"):
        if (value := getattr(given, name)) is not None:
            setattr(agency, name, value)
    if given.level is not None:
        agency.level = LEVELS[given.level]
    if given.reception is not None:
        agency.reception = given.reception
    stored = (await stub.PutAgency(pb.PutAgencyRequest(agency=agency), metadata=metadata)).agency
    return f"{stored.code} {stored.name}, below {stored.parent or 'none'}, is there from {stored.valid_from}"


async def make_official(channel: Channel, token: str, given: argparse.Namespace, password: str) -> str:
    """Makes the account; answers a line."""
    roles = [pb.Role(agency=agency, name=name) for agency, _, name in (r.partition(":") for r in given.role)]
    request = pb.CreateOfficialRequest(
        request_id=derived("official", given.username),
        name=given.name,
        username=given.username,
        email=given.email or "",
        phone=given.phone or "",
        password=password,
        roles=roles,
    )
    metadata = [("authorization", f"Bearer {token}")]
    account = (await IdentityServiceStub(channel).CreateOfficial(request, metadata=metadata)).account
    return f"{account.username} is there with {', '.join(f'{r.agency}:{r.name}' for r in account.roles)}"


async def _signed_in(channel: Channel, sign_in: pb.SignInRequest) -> str:
    """The access token of the admin, who is asked for a code where the password is not enough."""
    stub = IdentityServiceStub(channel)
    answer = await stub.SignIn(sign_in)
    if not answer.HasField("second_factor"):
        return answer.tokens.access_token
    if answer.second_factor.enrol:
        raise FailedPrecondition(
            "SECOND_FACTOR_NEEDED", "sign in to the portal first, to add a second factor"
        )
    code = _ask("Code of the authenticator app: ")
    shown = pb.CompleteSignInRequest(
        challenge=answer.second_factor.challenge, device_token=answer.device_token, code=code
    )
    return (await stub.CompleteSignIn(shown)).tokens.access_token


async def _run(settings: AgencySettings, given: argparse.Namespace) -> str:
    password = _ask(f"Password of {settings.admin_username}: ")
    new = _ask(f"Password for {given.username}: ") if given.do == "official" else ""
    async with connect(settings.identity_target, tls=settings.tls) as channel:
        sign_in = pb.SignInRequest(identifier=settings.admin_username, password=password)
        token = await _signed_in(channel, sign_in)
        if given.do == "agency":
            return await put_agency(channel, token, given)
        return await make_official(channel, token, given, new)


def _ask(prompt: str) -> str:
    return getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.agency", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="do", required=True)
    agency = commands.add_parser("agency", help="make or change an agency")
    agency.add_argument("code", help="such as H32.99")
    agency.add_argument("--level", choices=sorted(LEVELS))
    agency.add_argument("--reception", action=argparse.BooleanOptionalAction, help="receives dossiers")
    for name in ("name", "name-en", "parent", "address", "phone", "valid-from", "valid-to", "successor"):
        agency.add_argument(f"--{name}", dest=name.replace("-", "_"))
    official = commands.add_parser("official", help="make an official's account")
    official.add_argument("username")
    official.add_argument("--name", required=True)
    official.add_argument("--role", required=True, action="append", metavar="AGENCY:ROLE")
    official.add_argument("--email")
    official.add_argument("--phone")
    return parser.parse_args()


def main() -> NoReturn:
    """The command. Ends with 0, or with 2 and one line."""
    given = _arguments()
    try:
        settings = AgencySettings()
        if not settings.admin_username:
            raise CannotStart("set ADMIN_USERNAME")
        print(asyncio.run(_run(settings, given)))
    except grpc.aio.AioRpcError as error:
        _fail(str(from_rpc(error)))
    except ValidationError as error:
        _fail(wrong(error))
    except (CannotStart, DomainError) as error:
        _fail(str(error))
    sys.exit(0)


def _fail(why: str) -> NoReturn:
    print(f"ops.agency: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
