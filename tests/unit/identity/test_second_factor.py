"""The rules of second factors: codes and their steps, recovery codes, and who must have one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyotp
import pytest

from identity.domain.second_factor import (
    MOST_KEYS,
    STEP,
    TOTP_ID,
    SecondFactors,
    SecurityKey,
    Way,
    app_address,
    must_have,
    new_secret,
    recovery_hash,
    step_of,
)
from identity.sealing import Sealer
from kit.errors import DomainError, FailedPrecondition, NotFound, Unauthenticated

NOW = datetime(2026, 11, 29, 12, 0, 15, tzinfo=UTC)
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
TODAY = int(NOW.timestamp()) // STEP


def code_at(seconds: float) -> str:
    return pyotp.TOTP(SECRET).at(NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(("seconds", "taken"), [(0, 0), (-30, -1), (30, 1), (-60, None), (60, None)])
def test_a_clock_may_be_one_step_ahead_or_behind(seconds: int, taken: int | None) -> None:
    assert step_of(SECRET, code_at(seconds), NOW) == (None if taken is None else TODAY + taken)


def test_the_codes_are_those_of_rfc_6238() -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # appendix B: 12345678901234567890
    for seconds, code in ((59, "287082"), (1111111109, "081804"), (20000000000, "353130")):
        assert step_of(secret, code, datetime.fromtimestamp(seconds, UTC)) == seconds // STEP


def test_a_code_is_read_as_people_type_it() -> None:
    code = code_at(0)
    wide = code.translate({ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"})
    for typed in (f" {code[:3]} {code[3:]}", f"{code[:3]}-{code[3:]}\u200b", wide):
        assert step_of(SECRET, typed, NOW) == TODAY, typed


@pytest.mark.parametrize(
    "typed", ["", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "0" * 10_000, "\x00" * 6, "🙂" * 6, "-" * 64]
)
def test_what_is_no_code_is_wrong(typed: str) -> None:
    assert step_of(SECRET, typed, NOW) is None


def test_a_code_serves_once_and_none_before_it_afterwards() -> None:
    has = SecondFactors().with_app("sealed", TODAY - 1, NOW)
    used = has.after_code("sealed", TODAY, "sealed")
    for step in (TODAY, TODAY - 1):
        with pytest.raises(Unauthenticated, match="SECOND_FACTOR_WRONG"):
            used.after_code("sealed", step, "sealed")
    assert used.after_code("sealed", TODAY + 1, "anew").app.sealed == "anew"  # type: ignore[union-attr]


def test_a_code_of_an_app_that_was_replaced_meanwhile_is_wrong() -> None:
    has = SecondFactors().with_app("sealed", TODAY - 1, NOW).with_app("another", TODAY - 1, NOW)
    with pytest.raises(Unauthenticated):
        has.after_code("sealed", TODAY, "sealed")


def test_a_recovery_code_serves_once_and_for_its_own_account() -> None:
    has = SecondFactors(recovery=(recovery_hash("a", "ABCD-EFGH-IJKL-MNOP"),))
    with pytest.raises(Unauthenticated):
        has.after_recovery(recovery_hash("b", "ABCD-EFGH-IJKL-MNOP"))
    left = has.after_recovery(recovery_hash("a", " abcd efgh ijkl mnop "))
    assert left.recovery == ()
    with pytest.raises(Unauthenticated):
        left.after_recovery(recovery_hash("a", "ABCD-EFGH-IJKL-MNOP"))


def test_the_last_factor_takes_the_recovery_codes_with_it_unless_there_must_be_one() -> None:
    has = SecondFactors(recovery=("hash",)).with_app("sealed", 1, NOW)
    assert has.ways == (Way.TOTP, Way.RECOVERY_CODE)
    assert has.without(TOTP_ID, needed=False).recovery == ()
    with pytest.raises(FailedPrecondition, match="SECOND_FACTOR_NEEDED"):
        has.without(TOTP_ID, needed=True)
    with pytest.raises(NotFound):
        has.without("another", needed=False)


def test_a_key_counts_forwards_only() -> None:
    has = SecondFactors().with_key(SecurityKey("k", "public", "", NOW, 5))
    assert has.after_key("k", 6).keys[0].count == 6
    for count in (5, 4, 0):
        with pytest.raises(Unauthenticated):
            has.after_key("k", count)
    with pytest.raises(Unauthenticated):
        has.after_key("another", 6)
    silent = SecondFactors().with_key(SecurityKey("k", "public", "", NOW, 0))
    assert silent.after_key("k", 0) == silent  # some keys do not count


def test_keys_are_few_and_each_once() -> None:
    has = SecondFactors()
    for at in range(MOST_KEYS):
        has = has.with_key(SecurityKey(str(at), "public", "", NOW))
    for id, reason in (("0", "KEY_KNOWN"), ("more", "TOO_MANY_KEYS")):
        with pytest.raises(DomainError, match=reason):
            has.with_key(SecurityKey(id, "public", "", NOW))


@pytest.mark.parametrize(
    ("whom", "must"),
    [
        ("*", True),
        ("leader", True),
        ("examiner", False),
        ("@H32", True),
        ("@H32.15", True),
        ("@H3", False),
        ("@H32.1", False),
        ("leader@H32.15", True),
        ("examiner@H32.15", False),
        ("leader@H32.09", False),
    ],
)
def test_a_rule_names_roles_and_agencies(whom: str, must: bool) -> None:
    held = [("H32.15", "leader")]
    assert must_have({whom: NOW}, held, NOW) is must
    assert not must_have({whom: NOW + timedelta(seconds=1)}, held, NOW)


def test_an_app_reads_the_address_as_its_secret() -> None:
    secret = new_secret()
    read = pyotp.parse_uri(app_address(secret, username="nt.lanhdao", issuer="Một Cửa"))
    assert isinstance(read, pyotp.TOTP)
    assert (read.secret, read.name, read.issuer) == (secret, "nt.lanhdao", "Một Cửa")
    assert len(secret) == 32


def test_a_sealed_secret_is_opened_for_its_owner_by_any_of_the_keys() -> None:
    old, new = "o" * 32, "n" * 32
    sealed = Sealer([old]).seal(SECRET, "a")
    assert SECRET not in sealed
    both = Sealer([new, old])
    assert both.open(sealed, "a") == SECRET
    assert both.outdated(sealed)
    assert not both.outdated(both.seal(SECRET, "a"))
    for sealer, text, of in (
        (both, sealed, "b"),
        (Sealer([new]), sealed, "a"),
        (both, sealed[:-4] + "AAAA", "a"),
        (both, "", "a"),
        (both, "nothing", "a"),
    ):
        with pytest.raises(ValueError, match="SECOND_FACTOR_KEYS"):
            sealer.open(text, of)
    for keys in ([], ["short"]):
        with pytest.raises(ValueError, match="32 letters"):
            Sealer(keys)
