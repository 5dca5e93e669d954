"""Access tokens: signed with Ed25519, valid for minutes, verified by every service with the public keys."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kit.auth import AUDIENCE, ISSUER, TOKEN_SECONDS, Caller
from kit.ids import uuid7

_METHODS: Final = {  # as RFC 8176 calls them, where it does
    "password": "pwd",
    "oidc": "oidc",
    "totp": "otp",
    "webauthn": "hwk",
    "recovery_code": "recovery",
}
LIFETIME: Final = timedelta(seconds=TOKEN_SECONDS)


@dataclass(frozen=True)
class Key:
    """One key of the set; a retired one may have lost its private half and then verifies only."""

    kid: str
    public: Ed25519PublicKey
    private: Ed25519PrivateKey | None

    def public_jwk(self) -> dict[str, str]:
        """What others may see of it (RFC 8037)."""
        return {
            "kty": "OKP",
            "crv": "Ed25519",
            "use": "sig",
            "alg": "EdDSA",
            "kid": self.kid,
            "x": _text(self.public.public_bytes_raw()),
        }


class Tokens:
    """Issues access tokens. The first key signs; all are published, so that keys can be changed in peace:

    put the new key second, wait until every service has seen it (minutes), put it first, wait until the
    last token of the old key has expired, take the old one out. `python -m identity.keys` does each step.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        if not keys or keys[0].private is None:
            raise ValueError("the first signing key must have its private half")
        self._signer: Ed25519PrivateKey = keys[0].private
        self._kid = keys[0].kid
        self.jwks: Mapping[str, Any] = {"keys": [key.public_jwk() for key in keys]}

    def issue(
        self, caller: Caller, now: datetime, epoch: int = 0, methods: Sequence[str] = ()
    ) -> tuple[str, datetime]:
        """A token that names the caller and the account's epoch in which the session began, how they
        showed who they are (RFC 8176), and the instant it expires."""
        expires = (now + LIFETIME).replace(microsecond=0)
        claims = {
            "sub": caller.subject,
            "kind": caller.kind,
            "roles": [[role.agency, role.name] for role in caller.roles],
            "sid": caller.session,
            "ver": caller.verified,
            "epoch": epoch,
            "amr": [_METHODS[method] for method in methods if method in _METHODS],
            "iat": int(now.timestamp()),
            "exp": int(expires.timestamp()),
            "iss": ISSUER,
            "aud": AUDIENCE,
            "jti": uuid7(),
        }
        return jwt.encode(claims, self._signer, algorithm="EdDSA", headers={"kid": self._kid}), expires


def load_keys(path: Path, *, create: bool) -> list[Key]:
    """The keys in a file that holds a JWK set with private halves.

    A missing file is made with one new key, readable by its owner only, when `create` allows it.
    Raises ValueError with one clear line when the file is missing or holds something else.
    """
    if create and not path.exists():
        _create(path)
    try:
        entries = json.loads(path.read_text())["keys"]
        keys = [key_of(entry) for entry in entries]
    except FileNotFoundError:
        raise ValueError(f"IDENTITY_SIGNING_KEYS: there is no file {path}") from None
    except (OSError, KeyError, TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"IDENTITY_SIGNING_KEYS: {path} is not a set of Ed25519 JWKs: {error!r}") from None
    if len({key.kid for key in keys}) != len(keys):
        raise ValueError(f"IDENTITY_SIGNING_KEYS: {path} has two keys with the same kid")
    return keys


def key_of(entry: Mapping[str, str]) -> Key:
    """A JWK as a key. Raises ValueError, KeyError or TypeError for what is none on Ed25519."""
    if entry["kty"] != "OKP" or entry["crv"] != "Ed25519":
        raise ValueError("only OKP keys on Ed25519")
    public = Ed25519PublicKey.from_public_bytes(_bytes(entry["x"]))
    private = Ed25519PrivateKey.from_private_bytes(_bytes(entry["d"])) if "d" in entry else None
    if private is not None and private.public_key() != public:
        raise ValueError("x does not belong to d")
    return Key(entry.get("kid") or _thumbprint(entry["x"]), public, private)


def new_key() -> Key:
    """A new key, named by its thumbprint."""
    return key_of(new_jwk())


def new_jwk() -> dict[str, str]:
    """A new key with its private half, as it stands in the file."""
    private = Ed25519PrivateKey.generate()
    x = _text(private.public_key().public_bytes_raw())
    d = _text(private.private_bytes_raw())
    return {"kty": "OKP", "crv": "Ed25519", "kid": _thumbprint(x), "x": x, "d": d}


def _create(path: Path) -> None:
    entry = new_jwk()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump({"keys": [entry]}, file)
        with contextlib.suppress(FileExistsError):  # another process made it meanwhile
            os.link(draft, path)  # whole or not at all
    finally:
        draft.unlink()


def _thumbprint(x: str) -> str:
    canonical = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    return _text(hashlib.sha256(canonical.encode()).digest())  # RFC 7638


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
