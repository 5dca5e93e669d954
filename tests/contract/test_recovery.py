"""A forgotten password is replaced by a link that works once, and a contact serves once it is verified."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kit.ids import uuid7
from motcua.identity.v1 import identity_pb2 as idp
from tests.contract.conftest import World

Eventually = Callable[..., Awaitable[Any]]
PASSWORD, NEW = "một mật khẩu dài", "một mật khẩu mới tinh"
TOKEN = re.compile(r"https?://\S+/(quen-mat-khau|xac-nhan-lien-he)#([\w-]{43})")

ASK = """mutation ($i: RequestPasswordResetInput!) { requestPasswordReset(input: $i) { __typename } }"""
RESET = """mutation ($i: ResetPasswordInput!) { resetPassword(input: $i) { __typename
  ... on PasswordReset { deviceToken } ... on Problem { reason message }
  ... on ValidationProblem { violations { reason } } } }"""
VERIFY = """mutation ($i: VerifyContactInput!) { verifyContact(input: $i) { __typename
  ... on Account { emailVerified } ... on Problem { reason } } }"""
ASK_VERIFY = """mutation ($i: RequestContactVerificationInput!) { requestContactVerification(input: $i) {
  __typename ... on Problem { reason } } }"""


def digits(count: int) -> str:
    return "".join(str(int(letter, 16) % 10) for letter in uuid7().replace("-", "")[-count:])


async def answer(world: World, query: str, given: dict[str, Any], who: str = "") -> dict[str, Any]:
    body = (await world.graphql(query, {"i": given}, who=who)).json()
    assert "errors" not in body, body
    [found] = body["data"].values()
    return dict(found)


class Somebody:
    """Somebody new with an e-mail of their own."""

    def __init__(self, world: World, eventually: Eventually) -> None:
        self.world, self.eventually = world, eventually
        self.email = f"quen.{uuid7()}@example.vn"
        self.number = f"056095{digits(6)}"
        self.id = ""
        self.used: set[str] = set()

    async def sign_up(self, **more: str) -> None:
        request = idp.SignUpRequest(
            kind=idp.ACCOUNT_KIND_PERSON,
            name="Lê Văn Quên",
            citizen_number=self.number,
            email=self.email,
            password=PASSWORD,
            **more,
        )
        self.id = (await self.world.do("IdentityService.SignUp", request, "nobody")).account.id

    async def sign_in(self, name: str = "", password: str = PASSWORD) -> Any:
        request = idp.SignInRequest(identifier=name or self.number, password=password)
        return await self.world.call("IdentityService.SignIn", request, "nobody")

    async def session(self, who: str) -> None:
        """They sign in; `world.tokens[who]` is theirs."""
        outcome = await self.sign_in()
        assert outcome.code == "OK", outcome.reason
        self.world.tokens[who] = outcome.reply.tokens.access_token

    async def link(self, page: str) -> str:
        """The token of a link that was mailed to them and that they have not looked at yet."""

        def newest() -> str:
            for mail in list(self.world.mails.values()):
                if mail["To"] != self.email:
                    continue
                body = mail.get_body(("plain",))
                found = TOKEN.search(body.get_content()) if body else None
                if found and found[1] == page and found[2] not in self.used:
                    return found[2]
            return ""

        token = str(await self.eventually(newest))
        self.used.add(token)
        return token

    async def verified(self, who: str) -> None:
        """They verify the e-mail, by the mail that came with the sign-up."""
        await self.session(who)
        given = {"contact": "EMAIL", "secret": await self.link("xac-nhan-lien-he")}
        found = await answer(self.world, VERIFY, given, who)
        assert found == {"__typename": "Account", "emailVerified": True}


@pytest.fixture
async def somebody(world: World, eventually: Eventually) -> Somebody:
    person = Somebody(world, eventually)
    await person.sign_up()
    return person


@pytest.mark.proof("9.7")
async def test_a_contact_that_nobody_verified_signs_nobody_in(somebody: Somebody) -> None:
    assert (await somebody.sign_in()).code == "OK"
    assert (await somebody.sign_in(somebody.email)).reason == "INVALID_CREDENTIALS"


@pytest.mark.proof("9.7")
async def test_a_forgotten_password_is_replaced_by_a_link_once(world: World, somebody: Somebody) -> None:
    await answer(world, ASK, {"identifier": "nobody.has.this@example.vn"})
    await somebody.verified("forgetful")
    assert (await somebody.sign_in(somebody.email)).code == "OK"
    await answer(world, ASK, {"identifier": somebody.email})
    token = await somebody.link("quen-mat-khau")
    weak = await answer(world, RESET, {"token": token, "newPassword": "quên"})
    assert weak["violations"] == [{"reason": "PASSWORD_LENGTH"}]
    done = await answer(world, RESET, {"token": token, "newPassword": NEW})
    assert done["deviceToken"]
    assert (await somebody.sign_in(password=NEW)).code == "OK"
    assert (await somebody.sign_in()).reason == "INVALID_CREDENTIALS"
    again = await answer(world, RESET, {"token": token, "newPassword": "lại một cái khác"})
    assert again["reason"] == "RESET_LINK_INVALID"
    me = await world.call("IdentityService.GetAccount", idp.GetAccountRequest(), "forgetful")
    assert me.code == "UNAUTHENTICATED", "the sessions of before go on"


async def test_no_link_goes_to_a_contact_that_nobody_verified(world: World, somebody: Somebody) -> None:
    await answer(world, ASK, {"identifier": somebody.number})
    await answer(world, ASK, {"identifier": somebody.email})
    await somebody.verified("slow")  # by the mail of the sign-up; the other would have come before
    await world.quiet()
    assert not [
        one
        for one in stored(world, "notices")
        if one["recipient"] == somebody.id and "password_reset" in str(one)
    ]


async def test_only_the_account_that_asked_is_verified_by_its_link(
    world: World, eventually: Eventually
) -> None:
    first, second = Somebody(world, eventually), Somebody(world, eventually)
    second.email = first.email
    await first.sign_up()
    token = await first.link("xac-nhan-lien-he")
    await second.sign_up()
    second.used = first.used
    await first.session("first")
    await second.session("second")
    given = {"contact": "EMAIL", "secret": token}
    assert (await answer(world, VERIFY, given, "second"))["reason"] == "CONTACT_CODE_WRONG"
    assert (await answer(world, VERIFY, given, "first"))["__typename"] == "Account"
    assert (await answer(world, VERIFY, given, "first"))["__typename"] == "Account", "a repeat"
    other = {"contact": "EMAIL", "secret": await second.link("xac-nhan-lien-he")}
    assert (await answer(world, VERIFY, other, "second"))["reason"] == "CONTACT_TAKEN"
    assert (await first.sign_in(first.email)).reply.account.id == first.id


async def test_another_contact_is_verified_anew(world: World, somebody: Somebody) -> None:
    await somebody.verified("moving")
    old, somebody.email = somebody.email, f"moi.{uuid7()}@example.vn"
    change = idp.UpdateProfileRequest(email=somebody.email, current_password=PASSWORD)
    after = (await world.do("IdentityService.UpdateProfile", change, "moving")).account
    assert not after.email_verified
    for name in (old, somebody.email):
        assert (await somebody.sign_in(name)).reason == "INVALID_CREDENTIALS"
    given = {"contact": "EMAIL", "secret": await somebody.link("xac-nhan-lien-he")}
    assert (await answer(world, VERIFY, given, "moving"))["emailVerified"]
    assert (await somebody.sign_in(somebody.email)).code == "OK"


async def test_a_phone_is_verified_by_a_code_with_few_tries(world: World, eventually: Eventually) -> None:
    person = Somebody(world, eventually)
    phone = f"093{digits(7)}"
    await person.sign_up(phone=phone)
    await person.session("phoning")

    async def code() -> str:
        """As notify gets it when it sends it; no gateway for SMS is set here."""
        given = {"contact": "PHONE"}
        assert (await answer(world, ASK_VERIFY, given, "phoning"))["__typename"] == "Account"
        wanted = idp.IssueOneTimeSecretRequest(
            account_id=person.id,
            purpose=idp.ONE_TIME_PURPOSE_VERIFY_PHONE,
            contact=idp.CONTACT_KIND_PHONE,
        )
        issued = await world.do("IdentityService.IssueOneTimeSecret", wanted, "service:notify")
        assert issued.address == phone
        return str(issued.secret)

    first = await code()
    wrong = f"{(int(first) + 1) % 10**6:06}"
    for _ in range(5):
        found = await answer(world, VERIFY, {"contact": "PHONE", "secret": wrong}, "phoning")
        assert found["reason"] == "CONTACT_CODE_WRONG"
    used_up = await answer(world, VERIFY, {"contact": "PHONE", "secret": first}, "phoning")
    assert used_up["reason"] == "CONTACT_CODE_WRONG"
    assert (await person.sign_in(phone)).reason == "INVALID_CREDENTIALS"
    second = await code()
    found = await answer(
        world, VERIFY, {"contact": "PHONE", "secret": f"{second[:3]} {second[3:]}"}, "phoning"
    )
    assert found["__typename"] == "Account"
    assert (await person.sign_in(phone)).code == "OK"


async def test_no_secret_is_made_that_nobody_asked_for(world: World, somebody: Somebody) -> None:
    await somebody.verified("calm")
    for purpose in idp.OneTimePurpose.values():
        for contact in idp.ContactKind.values():
            wanted = idp.IssueOneTimeSecretRequest(account_id=somebody.id, purpose=purpose, contact=contact)
            outcome = await world.call("IdentityService.IssueOneTimeSecret", wanted, "service:notify")
            assert (outcome.code, outcome.reason) == ("NOT_FOUND", "NOTHING_ASKED")


async def test_no_secret_is_stored_or_announced(world: World, somebody: Somebody) -> None:
    await somebody.verified("secretive")
    await answer(world, ASK, {"identifier": somebody.email})
    token = await somebody.link("quen-mat-khau")
    await world.quiet()
    assert not [where for where, what in world.stored().items() if token in str(what)]
    assert not [one for one in stored(world, "notices") if token in str(one)]


def stored(world: World, collection: str) -> list[dict[str, Any]]:
    database = next(world.mongo[name] for name in world.databases if name.startswith("contract_notify"))
    return list(database[collection].find({}))
