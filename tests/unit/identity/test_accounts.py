"""Accounts, their passwords and roles; agencies; delegations."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.domain.accounts import (
    Account,
    AccountClaimed,
    AccountOpened,
    Kind,
    ProfileChanged,
    Registration,
    RoleGrant,
    RolesChanged,
    Status,
    registration,
    role_grants,
)
from identity.domain.agencies import Agency, AgencyChanged, Level, agency_details, is_agency_code
from identity.domain.delegations import Delegation, DelegationRevoked, Scope
from identity.domain.identifiers import FieldCheck, Identifier
from identity.domain.passwords import check_password
from kit.errors import FailedPrecondition, Forbidden, InvalidInput
from kit.plain import from_plain

NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)
AN = Registration(Kind.PERSON, "Nguyễn Thị An", citizen_number="079090000101", phone="0901000101")


def opened() -> Account:
    return Account.opened_at_counter(
        "1", AN, code_hash="hash", official="9", agency="H32.15", mark="m", now=NOW
    )


def claim(account: Account, now: datetime = NOW) -> None:
    account.claim(password_hash="secret", phone="", email="an@example.vn", locale="en", mark="r")


def wrong(error: InvalidInput) -> dict[str, str]:
    return {violation.field: violation.reason for violation in error.violations}


def test_an_account_opened_at_the_counter_is_claimed_once() -> None:
    account = opened()
    claim(account)
    assert (account.status, account.email, account.phone) == (Status.ACTIVE, "an@example.vn", "0901000101")
    assert account.events == [AccountOpened(), AccountClaimed()]
    with pytest.raises(FailedPrecondition, match="NOT_CLAIMABLE"):
        claim(account)


def test_a_new_password_lets_only_the_session_that_asked_go_on_and_a_lock_none() -> None:
    account = opened()
    claim(account)
    assert account.admits("any", 0)
    account.change_password(verified="secret", password_hash="new", session="kept", mark="", now=NOW)
    assert [account.admits("kept", 0), account.admits("other", 0), account.admits("later", 1)] == [
        True,
        False,
        True,
    ]
    account.lock(NOW)
    account.lock(NOW)
    assert [account.admits("kept", 0), account.admits("later", 1), account.epoch] == [False, False, 2]
    account.unlock()
    assert not account.admits("later", 1)


def test_an_unlocked_account_is_what_it_was_before_the_lock() -> None:
    unclaimed, active = opened(), opened()
    claim(active)
    for account, before in ((unclaimed, Status.UNCLAIMED), (active, Status.ACTIVE)):
        account.lock(NOW)
        assert account.status == Status.LOCKED
        account.unlock()
        assert account.status == before
    active.unlock()
    assert active.status == Status.ACTIVE
    with pytest.raises(FailedPrecondition, match="ACTIVATION_REQUIRED"):
        unclaimed.unlock()


def test_a_locked_account_changes_no_password() -> None:
    account = opened()
    claim(account)
    account.lock(NOW)
    with pytest.raises(Forbidden, match="ACCOUNT_LOCKED"):
        account.change_password(verified="secret", password_hash="new", session="", mark="", now=NOW)


def test_every_try_of_an_activation_code_counts_before_it_is_compared() -> None:
    account = opened()
    for _ in range(5):
        account.try_code(NOW)
    with pytest.raises(FailedPrecondition, match="ACTIVATION_EXPIRED"):
        account.try_code(NOW)
    account.renew_activation(code_hash="new", now=NOW)
    account.try_code(NOW)
    with pytest.raises(FailedPrecondition, match="ACTIVATION_EXPIRED"):
        account.try_code(NOW + timedelta(days=30))


def test_others_see_a_name_and_nothing_to_reach_somebody_by() -> None:
    seen = opened().for_others()
    assert (seen.name, seen.citizen_number) == ("Nguyễn Thị An", "•••••••••101")
    hidden = (seen.phone, seen.email, seen.password_hash, seen.activation, seen.opened_by)
    assert not any(hidden)


def test_a_profile_that_stays_the_same_announces_nothing() -> None:
    account = opened()
    account.events.clear()
    account.update_profile(phone="0901000101", email="", locale="vi", now=NOW)
    assert account.events == []
    account.update_profile(phone="", email="", locale="en", now=NOW)
    assert (account.locale, account.events) == ("en", [ProfileChanged()])


def register(kind: Kind | None, *, now: datetime = NOW, **given: str) -> Registration:
    return registration(
        kind=kind,
        name=given.get("name", ""),
        citizen_number=given.get("citizen_number", ""),
        tax_code=given.get("tax_code", ""),
        phone="",
        email="",
        locale="",
        now=now,
        contact_required=kind is Kind.PERSON and "citizen_number" not in given,
        password=None,
    )


def test_a_person_needs_a_citizen_number_and_an_organisation_a_tax_code() -> None:
    with pytest.raises(InvalidInput) as person:
        register(Kind.PERSON)
    assert wrong(person.value) == {
        "name": "REQUIRED",
        "citizen_number": "REQUIRED",
        "phone": "CONTACT_REQUIRED",
    }
    with pytest.raises(InvalidInput) as organisation:
        register(Kind.ORGANISATION)
    assert wrong(organisation.value) == {"name": "REQUIRED", "tax_code": "REQUIRED"}
    for kind in (None, Kind.OFFICIAL):
        with pytest.raises(InvalidInput) as other:
            register(kind)
        assert wrong(other.value)["kind"] == "KIND_NOT_ALLOWED"


def test_a_number_of_the_new_year_is_valid_once_the_year_has_begun_in_vietnam() -> None:
    new_year = datetime(2026, 12, 31, 17, tzinfo=UTC)
    with pytest.raises(InvalidInput):
        register(Kind.PERSON, name="Bé", citizen_number="056227000001", now=new_year - timedelta(seconds=1))
    who = register(Kind.PERSON, name="Bé", citizen_number="056227000001", now=new_year)
    assert who.citizen_number == "056227000001"


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("ngắn quá", "PASSWORD_LENGTH"),
        ("x" * 129, "PASSWORD_LENGTH"),
        ("matkhau123", "PASSWORD_COMMON"),
        ("Password.123", "PASSWORD_COMMON"),
        ("aaaaaaaaaaaa", "PASSWORD_COMMON"),
        ("0901-000-101!", "PASSWORD_IS_IDENTIFIER"),
        ("079090000101x", "PASSWORD_IS_IDENTIFIER"),
        ("NguyễnThịAn1990", "PASSWORD_IS_IDENTIFIER"),
    ],
)
def test_a_weak_password_is_refused(password: str, reason: str) -> None:
    check = FieldCheck()
    check_password(check, password, identifiers=AN.identifiers, name=AN.name)
    assert [(found.field, found.reason) for found in check.violations] == [("password", reason)]


@pytest.mark.parametrize("password", ["Motcua@2026", "một mật khẩu dài", "x7#kQ9!pLm2"])
def test_a_good_password_passes(password: str) -> None:
    check = FieldCheck()
    check_password(
        check, password, identifiers=(Identifier("email", "an@example.vn"), *AN.identifiers), name="An"
    )
    check.done()


def test_a_role_is_held_from_its_first_day_to_its_last() -> None:
    role = RoleGrant("H32.15", "leader", date(2026, 1, 1), date(2026, 6, 30))
    held = {
        day: role.held_on(date.fromisoformat(day))
        for day in ("2025-12-31", "2026-01-01", "2026-06-30", "2026-07-01")
    }
    assert list(held.values()) == [False, True, True, False]


def test_roles_are_checked_and_kept_once() -> None:
    leader = ("H32.15", "leader", "2026-01-01", "")
    assert role_grants([leader, leader]) == (RoleGrant("H32.15", "leader", date(2026, 1, 1)),)
    with pytest.raises(InvalidInput) as caught:
        role_grants(
            [
                ("H32", "king", "", ""),
                ("H32", "admin", "20260101", ""),
                ("H32", "admin", "2026-02-01", "2026-01-01"),
            ]
        )
    assert wrong(caught.value) == {
        "roles[0].name": "ROLE_UNKNOWN",
        "roles[1].valid_from": "DATE_SHAPE",
        "roles[2].valid_to": "BEFORE_START",
    }


def test_only_officials_hold_roles_and_the_same_roles_again_announce_nothing() -> None:
    roles = (RoleGrant("H32.15", "clerk"),)
    with pytest.raises(FailedPrecondition, match="NOT_AN_OFFICIAL"):
        opened().set_roles(roles)
    official = Account.of_official(
        "2", name="X", username="xyz", email="", phone="", roles=roles, password_hash="h", mark="m", now=NOW
    )
    assert [name.type for name in official.identifiers] == ["username"]
    official.events.clear()
    official.set_roles(roles)
    assert official.events == []
    official.set_roles(())
    assert official.events == [RolesChanged()]


def agency(**changed: object) -> Agency:
    given: dict[str, object] = {
        "name": "UBND phường Cũ",
        "name_en": "",
        "level": Level.COMMUNE,
        "parent": "H32",
        "valid_from": "2010-01-01",
        "valid_to": "2025-06-30",
        "successor": "H32.15",
        "address": "",
        "phone": "",
        "reception": False,
    }
    return Agency.new("H32.70", agency_details("H32.70", **{**given, **changed}))  # type: ignore[arg-type]


def test_an_agency_exists_from_its_first_day_to_its_last() -> None:
    old = agency()
    days = ("2009-12-31", "2010-01-01", "2025-06-30", "2025-07-01")
    assert [old.valid_on(date.fromisoformat(day)) for day in days] == [False, True, True, False]
    assert agency(valid_to="", successor="").valid_on(date(2999, 1, 1))
    assert old.events == [AgencyChanged()]
    old.change(old.details)
    assert old.events == [AgencyChanged()]


@pytest.mark.parametrize(
    ("changed", "field", "reason"),
    [
        ({"name": ""}, "agency.name", "REQUIRED"),
        ({"level": None}, "agency.level", "REQUIRED"),
        ({"valid_from": ""}, "agency.valid_from", "REQUIRED"),
        ({"valid_from": "2025-02-30"}, "agency.valid_from", "DATE_SHAPE"),
        ({"valid_to": "2009-01-01"}, "agency.valid_to", "BEFORE_START"),
        ({"valid_to": ""}, "agency.valid_to", "REQUIRED"),
        ({"successor": "H32.70"}, "agency.successor", "AGENCY_ITSELF"),
        ({"parent": "H32.70"}, "agency.parent", "AGENCY_ITSELF"),
    ],
)
def test_an_agency_that_cannot_be_is_refused(changed: dict[str, object], field: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        agency(**changed)
    assert wrong(caught.value)[field] == reason


def test_agency_codes_come_in_several_shapes() -> None:
    assert all(map(is_agency_code, ("H32", "H32.15", "H15.50.05.13", "000.00.12.H29", "G09")))
    assert not any(
        map(is_agency_code, ("", "H32.", ".H32", "h32", "H32/15", "H32..15", "H32 15", "H32.15\n"))
    )


def requested(scopes: Collection[Scope], until: datetime) -> Delegation:
    return Delegation.requested(
        "1",
        principal="a",
        principal_shown="•••101",
        delegate="b",
        target="t",
        target_shown="•••202",
        scopes=scopes,
        until=until,
        mark="m",
        now=NOW,
    )


instants = st.integers(-10_000, 10_000).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(
    scopes=st.sets(st.sampled_from(Scope), min_size=1),
    asked=st.sampled_from(Scope),
    lasts=st.integers(1, 9_000),
    at=instants,
    revoked=st.none() | instants,
)
def test_a_delegation_allows_its_scopes_while_it_lasts_and_nothing_else(
    scopes: set[Scope], asked: Scope, lasts: int, at: datetime, revoked: datetime | None
) -> None:
    until = NOW + timedelta(seconds=lasts)
    delegation = requested(scopes, until)
    assert not delegation.allows(asked, at)
    delegation.accept("b", NOW)
    if revoked is not None:
        delegation.revoke("a", revoked)
    assert delegation.allows(asked, at) == (revoked is None and at < until and asked in scopes)


def test_either_side_ends_a_delegation_once_and_nobody_else_does() -> None:
    until = NOW + timedelta(days=1)
    given = requested([Scope.FILE], until)
    given.accept("b", NOW)
    given.events.clear()
    with pytest.raises(Forbidden):
        given.revoke("c", NOW)
    given.events.clear()
    given.revoke("b", NOW)
    given.revoke("a", NOW + timedelta(hours=1))
    assert (given.revoked, given.events) == (NOW, [DelegationRevoked()])


def test_a_contact_names_an_account_only_while_it_is_the_verified_one() -> None:
    account = from_plain(  # as a release stored it that knew no verification
        Account,
        {
            "id": "a",
            "kind": "person",
            "name": "An",
            "status": "active",
            "created": "2026-01-01T00:00:00.000Z",
            "citizen_number": "079090000101",
            "phone": "0901000101",
            "email": "an@example.vn",
            "unheld": [],
        },
    )
    assert [name.type for name in account.identifiers] == ["citizen_number"]
    assert [name.type for name in account.known_by] == ["citizen_number", "phone", "email"]
    account.verify_contact("phone", "0901000101")
    assert [name.type for name in account.identifiers] == ["citizen_number", "phone"]
    assert account.recovery_address("phone") == "0901000101"
    account.verify_contact("email", "an@example.vn")
    assert (account.recovery_address("email"), account.recovery_address("phone")) == ("an@example.vn", "")
    with pytest.raises(FailedPrecondition, match="CONTACT_CODE_WRONG"):
        account.verify_contact("email", "other@example.vn")
    account.email = "moi@example.vn"  # by a release that knows no verification
    assert not account.email_verified
    account.update_profile(phone="", email="an@example.vn", locale="", now=NOW)
    assert account.email_verified, "it is the address that was verified"
    account.update_profile(phone="0901000999", email="", locale="", now=NOW)
    account.update_profile(phone="0901000101", email="", locale="", now=NOW)
    assert not account.phone_verified, "it was another one in between"
    account.lock(NOW)
    assert account.recovery_address("email") == ""
