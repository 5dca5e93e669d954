"""Password hashes and signing keys."""

from __future__ import annotations

import asyncio
import json
import threading
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest

from identity.passwords import Passwords
from identity.peers import NoPopulationDatabase
from identity.tokens import Tokens, load_keys, new_key
from kit.auth import Caller, Role, TokenVerifier
from kit.errors import Unavailable


@pytest.fixture
def passwords() -> Passwords:
    return Passwords(memory_kib=64, passes=1, lanes=1, workers=2)


async def test_a_password_is_argon2id_and_verifies(passwords: Passwords) -> None:
    stored = await passwords.hash("một mật khẩu dài")
    assert stored.startswith("$argon2id$")
    assert await passwords.verify(stored, "một mật khẩu dài")
    assert not await passwords.verify(stored, "một mật khẩu khác")
    assert await passwords.hash("một mật khẩu dài") != stored


async def test_a_password_is_the_same_in_every_form_of_unicode(passwords: Passwords) -> None:
    stored = await passwords.hash(unicodedata.normalize("NFD", "một mật khẩu dài"))
    assert await passwords.verify(stored, unicodedata.normalize("NFC", "một mật khẩu dài"))


async def test_nothing_verifies_against_no_hash_or_a_broken_one(passwords: Passwords) -> None:
    for stored in ("", "plain", "$argon2id$broken"):
        assert not await passwords.verify(stored, "nobody's password")


async def test_an_endless_password_is_wrong_and_cheap(passwords: Passwords) -> None:
    stored = await passwords.hash("y" * 128)
    assert await passwords.verify(stored, "y" * 128)
    assert not await passwords.verify(stored, "y" * 1_000_000)
    assert not await passwords.verify(stored, "y" * 129)


async def test_a_hash_made_with_other_costs_is_outdated(passwords: Passwords) -> None:
    stronger = Passwords(memory_kib=128, passes=1, lanes=1, workers=1)
    stored = await passwords.hash("một mật khẩu dài")
    assert not passwords.outdated(stored)
    assert stronger.outdated(stored)
    assert await stronger.verify(stored, "một mật khẩu dài")


async def test_who_finds_the_queue_full_is_sent_away_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(memory_kib=64, passes=1, lanes=1, workers=1, queue=1)
    go_on = threading.Event()

    def slow(_password: str) -> str:
        go_on.wait(10)
        return "done"

    monkeypatch.setattr(passwords, "_hash", slow)
    waiting = [asyncio.create_task(passwords.hash("x")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="BUSY"):
        await passwords.hash("x")
    go_on.set()
    assert await asyncio.gather(*waiting) == ["done", "done"]
    assert await passwords.hash("x") == "done"


async def test_an_issued_token_names_its_caller() -> None:
    tokens = Tokens([new_key()])
    caller = Caller("a1", "official", (Role("H32.15", "leader"),), "s1")
    now = datetime.now(UTC)
    token, expires = tokens.issue(caller, now)
    assert 290 < (expires - now).total_seconds() <= 300

    async def jwks() -> dict[str, object]:
        return dict(tokens.jwks)

    assert await TokenVerifier(jwks).verify(token) == caller


def test_the_first_key_signs_and_must_be_able_to(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first signing key"):
        Tokens([])
    path = tmp_path / "deep" / "keys.json"
    (key,) = load_keys(path, create=True)
    assert (path.stat().st_mode & 0o777, [file.name for file in path.parent.iterdir()]) == (
        0o600,
        ["keys.json"],
    )
    assert load_keys(path, create=True)[0].kid == key.kid
    stored = json.loads(path.read_text())["keys"][0]
    public_only = {name: value for name, value in stored.items() if name not in ("d", "kid")}
    path.write_text(json.dumps({"keys": [public_only]}))
    (retired,) = load_keys(path, create=False)
    assert retired.kid == key.kid, "the kid is the thumbprint of the key (RFC 7638)"
    with pytest.raises(ValueError, match="first signing key"):
        Tokens([retired])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"keys": [{}]}',
        '{"keys": [{"kty": "RSA", "crv": "Ed25519", "x": "AA"}]}',
        '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}',
        '{"keys": 7}',
    ],
)
def test_a_wrong_key_file_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="IDENTITY_SIGNING_KEYS"):
        load_keys(path, create=True)


def test_keys_are_told_apart_by_their_kid(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    load_keys(path, create=True)
    (key,) = json.loads(path.read_text())["keys"]
    path.write_text(json.dumps({"keys": [key, key]}))
    with pytest.raises(ValueError, match="same kid"):
        load_keys(path, create=True)


def test_published_keys_keep_their_private_halves_to_themselves() -> None:
    tokens = Tokens([new_key(), new_key()])
    assert all("d" not in key for key in tokens.jwks["keys"])
    token, _ = tokens.issue(Caller("notify", "service"), datetime.now(UTC))
    assert jwt.get_unverified_header(token)["kid"] == tokens.jwks["keys"][0]["kid"]


async def test_without_a_population_database_every_call_says_so() -> None:
    nobody = NoPopulationDatabase()
    for call in (
        nobody.verify_citizen("079090000101", "An", purpose="test"),
        nobody.verify_head_of_household("079090000101", purpose="test"),
        nobody.fetch_citizen("079090000101", purpose="test"),
    ):
        with pytest.raises(Unavailable, match="POPULATION_DATABASE_NOT_CONNECTED"):
            await call
