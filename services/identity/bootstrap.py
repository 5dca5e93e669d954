"""Puts identity together from its settings."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import AwareDatetime, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from identity import seed
from identity.domain.accounts import ROLE_NAMES, Kind
from identity.domain.agencies import Level
from identity.domain.sessions import Limits
from identity.grpc_api import IdentityApi
from identity.handlers import later
from identity.handlers.ports import Challenge, PendingSignIn, Ports
from identity.oidc import Client, OpenIdProvider
from identity.passwords import Passwords
from identity.sealing import Sealer
from identity.store import (
    Attempts,
    Devices,
    Limit,
    Names,
    OneTimes,
    Waiting,
    account_store,
    agency_store,
    delegation_store,
    ended_since,
    forget_sessions,
    session_store,
)
from identity.tokens import Tokens, load_keys, new_key
from kit import clock, mongo
from kit.auth import REMEMBERED, TokenVerifier
from kit.errors import InvalidInput
from kit.service import CannotStart, Service
from kit.sessions import Ended, EndedSessions, digest
from kit.settings import Settings
from motcua.identity.v1 import identity_pb2_grpc as grpc_pb

_SWEEP = 3600.0  # seconds between two sweeps of ended sessions
_DAY = 86400  # seconds; without a try for so long, wrong ones are forgotten
_WINDOW = 15 * 60  # seconds in which tries are counted

log = logging.getLogger(__name__)


class IdentitySettings(Settings):
    """What identity can be told."""

    identity_signing_keys: str = Field(
        default="",
        description="file with a JWK set of Ed25519 private keys, the first signs access tokens; required in "
        "production, else made when missing; empty: a key that lasts as long as the process",
    )
    identity_seed: str = Field(
        default="",
        description="JSON file of demo agencies and accounts to load at start; refused in production",
    )
    service_secrets: dict[str, SecretStr | list[SecretStr]] = Field(
        default={},
        description="JSON object of service names and secrets, or `sha256:<hex of the secret>`; "
        "a list while a secret is changed: each of them is right",
    )
    service_secrets_file: str = Field(default="", description="file that holds what SERVICE_SECRETS would")
    sign_in_tries: int = Field(
        default=8,
        ge=1,
        description="wrong passwords for an account after which each next try waits longer, up to 15 min; "
        "for a change of the password, those in 15 min",
    )
    sign_in_tries_address: int = Field(
        default=100, ge=1, description="wrong passwords from a client address in 15 minutes"
    )
    sign_up_tries_address: int = Field(
        default=100, ge=1, description="sign-ups from an address in 15 minutes"
    )
    recovery_tries_address: int = Field(
        default=30, ge=1, description="links to set a new password asked for from an address in 15 minutes"
    )
    citizen_session_idle: float = Field(
        default=7 * 86400, gt=0, description="seconds a citizen may stay away"
    )
    citizen_session_longest: float = Field(default=30 * 86400, gt=0, description="seconds it lasts at most")
    official_session_idle: float = Field(
        default=2 * 3600, gt=0, description="seconds an official may stay away"
    )
    official_session_longest: float = Field(default=12 * 3600, gt=0, description="seconds it lasts at most")
    oidc_issuer: str = Field(
        default="",
        description="identity provider that citizens may sign in with (OpenID Connect), as in its tokens; "
        "https in production; empty: none",
    )
    oidc_client_id: str = Field(default="", description="what we are called there")
    oidc_client_secret: SecretStr = Field(
        default=SecretStr(""), description="our secret there; empty: a public client, with PKCE alone"
    )
    oidc_redirect_uri: str = Field(
        default="", description="page of the web app to which the provider sends the browser back"
    )
    oidc_scopes: str = Field(default="openid profile", description="what we ask it for, separated by spaces")
    oidc_number_claim: str = Field(default="citizen_number", description="claim with the citizen number")
    oidc_name_claim: str = Field(default="name", description="claim with the full name")
    oidc_proven_acr: list[str] = Field(
        default=[], description="JSON array of the values of `acr` that prove who somebody is; empty: none"
    )
    second_factor_keys: list[SecretStr] = Field(
        default=[],
        description="JSON array of random texts of at least 32 letters: the first encrypts the secrets of "
        "officials' authenticator apps, all decrypt, so that it can be changed; empty: nobody can add an app",
    )
    second_factor_required: dict[str, AwareDatetime] = Field(
        default={},
        description="JSON object of officials who must sign in with a second factor, and the instant from "
        "which they must: `*` all, `leader` a role, `@H32` an agency and those below it, `leader@H32` both",
    )
    argon2_memory_kib: int = Field(
        default=19 * 1024, ge=64, description="memory of one password hash, in KiB"
    )
    argon2_passes: int = Field(default=2, ge=1, description="passes over that memory")
    argon2_workers: int = Field(default=2, ge=1, description="password hashes made at once")


class FirstAdminSettings(BaseSettings):
    """What `python -m identity.first_admin` can be told beside that."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    first_admin_username: str = Field(default="", description="name by which the first admin signs in")
    first_admin_name: str = Field(default="", description="the first admin's full name")
    first_admin_agency: str = Field(
        default="", description="code of the root agency, which all others will be below, such as H32"
    )
    first_admin_agency_name: str = Field(default="", description="its name")
    first_admin_agency_name_en: str = Field(default="", description="its name in English")
    first_admin_agency_level: Level = Field(
        default=Level.PROVINCE, description="ministry, province or commune"
    )
    first_admin_agency_since: str = Field(
        default="", description="ISO date of the day the agency began to exist; empty: today"
    )


def build(settings: IdentitySettings, now: clock.Clock = clock.now) -> Service:
    """The service, not started. Raises CannotStart for settings that cannot be."""
    production = settings.environment == "production"
    if production and settings.identity_seed:
        raise CannotStart(
            "identity: IDENTITY_SEED is for development and tests, not for production; "
            "`python -m identity.first_admin` makes the first admin there"
        )
    if production and not settings.identity_signing_keys:
        raise CannotStart("identity: production needs IDENTITY_SIGNING_KEYS")
    try:
        tokens = Tokens(
            load_keys(Path(settings.identity_signing_keys), create=not production)
            if settings.identity_signing_keys
            else [new_key()]
        )
        secrets = _service_secrets(settings)
        demo = _json_file("IDENTITY_SEED", settings.identity_seed) if settings.identity_seed else None
        sealer = _sealer_of(settings)
    except ValueError as error:
        raise CannotStart(f"identity: {error}") from error
    database = mongo.connect(settings.mongodb_url, settings.mongodb_database or "motcua_identity")
    accounts, agencies = account_store(database), agency_store(database)
    sessions, delegations = session_store(database), delegation_store(database)
    passwords = passwords_of(settings)
    attempts = Attempts(
        database,
        {
            "sign-in": Limit(settings.sign_in_tries, _DAY),
            "sign-in-address": Limit(settings.sign_in_tries_address, _WINDOW),
            "change-password": Limit(settings.sign_in_tries, _WINDOW),
            "change-contact": Limit(10, _WINDOW),
            "contact-used": Limit(1, _DAY),
            "reset-address": Limit(settings.recovery_tries_address, _WINDOW),
            "reset-try": Limit(settings.sign_in_tries_address, _WINDOW),
            "reset-account": Limit(3, _WINDOW),
            "verify-contact": Limit(10, _DAY),
            "verify-address": Limit(10, _DAY),
            "sign-up": Limit(settings.sign_up_tries_address, _WINDOW),
            "oidc": Limit(settings.sign_in_tries_address, _WINDOW),
            "second-factor": Limit(settings.sign_in_tries, _DAY),
            "second-factor-begin": Limit(30, _WINDOW),
            "delegate": Limit(30, _WINDOW),
            "delegation-received": Limit(10, _DAY),
        },
        now,
    )
    devices, one_times = Devices(database, now), OneTimes(database, now)
    citizens = Limits(
        timedelta(seconds=settings.citizen_session_idle), timedelta(seconds=settings.citizen_session_longest)
    )
    officials = Limits(
        timedelta(seconds=settings.official_session_idle),
        timedelta(seconds=settings.official_session_longest),
    )
    sign_ins, provider = Waiting(database, "sign_ins", PendingSignIn), _provider_of(settings)
    challenges = Waiting(database, "challenges", Challenge)
    ports = Ports(
        accounts=accounts,
        agencies=agencies,
        sessions=sessions,
        delegations=delegations,
        names=Names(database, accounts, now),
        passwords=passwords,
        tokens=tokens,
        attempts=attempts,
        devices=devices,
        clock=now,
        limits={Kind.PERSON: citizens, Kind.ORGANISATION: citizens, Kind.OFFICIAL: officials},
        ended=lambda since: ended_since(database, since),
        service_secrets=secrets,
        sign_ins=sign_ins,
        one_times=one_times,
        challenges=challenges,
        provider=provider,
        sealer=sealer,
        must_have=settings.second_factor_required,
    )

    async def own_ended() -> list[Ended]:
        since = now() - timedelta(seconds=REMEMBERED)
        return [
            Ended(one.at.timestamp(), digest(one.session), digest(one.account), one.epoch, digest(one.kept))
            for one in await ports.ended(since)
        ]

    async def own_keys() -> Mapping[str, object]:
        return tokens.jwks

    async def load_seed() -> None:
        if demo is not None:
            try:
                await seed.load(ports, demo)
            except (KeyError, ValueError, TypeError, InvalidInput) as error:
                raise CannotStart(f"identity: IDENTITY_SEED is wrong: {error!r}") from error

    async def sweep() -> None:
        while True:
            count = await forget_sessions(database, now())
            if count:
                log.info("forgot %d sessions that were over", count)
            await asyncio.sleep(_SWEEP)

    async def close() -> None:
        await later.finish()
        passwords.close()
        if provider is not None:
            await provider.http.aclose()

    return Service(
        "identity",
        settings,
        servicers=[(grpc_pb.add_IdentityServiceServicer_to_server, IdentityApi(ports))],
        database=database,
        stores=[accounts, agencies, sessions, delegations],
        tasks=[sweep],
        opening=[
            attempts.prepare,
            devices.prepare,
            sign_ins.prepare,
            one_times.prepare,
            challenges.prepare,
            load_seed,
        ],
        closing=[close],
        verifier=TokenVerifier(own_keys, EndedSessions(own_ended)),
    )


def _sealer_of(settings: IdentitySettings) -> Sealer | None:
    """What encrypts secrets of authenticator apps, if keys are set. Raises ValueError with one clear line."""
    for whom in settings.second_factor_required:
        role, _, agency = whom.partition("@")
        if whom != "*" and (role not in (*ROLE_NAMES, "") or not (role or agency)):
            raise ValueError(
                f"SECOND_FACTOR_REQUIRED: {whom!r} is neither *, a role, @agency nor role@agency"
            )
    keys = [key.get_secret_value() for key in settings.second_factor_keys]
    if not keys and settings.second_factor_required:
        raise ValueError("SECOND_FACTOR_REQUIRED needs SECOND_FACTOR_KEYS, else nobody could add one")
    try:
        return Sealer(keys) if keys else None
    except ValueError as error:
        raise ValueError(f"SECOND_FACTOR_KEYS: {error}") from None


def _provider_of(settings: IdentitySettings) -> OpenIdProvider | None:
    """The identity provider that is set, if any. Raises CannotStart for settings that cannot be."""
    if not settings.oidc_issuer:
        return None
    secure = settings.oidc_issuer.startswith("https://")
    if settings.environment == "production" and not secure:
        raise CannotStart("identity: OIDC_ISSUER must be reached by https in production")
    for name in ("oidc_client_id", "oidc_redirect_uri"):
        if not getattr(settings, name):
            raise CannotStart(f"identity: OIDC_ISSUER needs {name.upper()}")
    client = Client(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret.get_secret_value(),
        redirect_uri=settings.oidc_redirect_uri,
        scopes=settings.oidc_scopes,
        number_claim=settings.oidc_number_claim,
        name_claim=settings.oidc_name_claim,
        proven_acr=tuple(settings.oidc_proven_acr),
    )
    return OpenIdProvider(
        client, httpx.AsyncClient(follow_redirects=False), insecure=settings.environment != "production"
    )


def passwords_of(settings: IdentitySettings) -> Passwords:
    """The hashes of passwords, at the costs that are set."""
    return Passwords(
        memory_kib=settings.argon2_memory_kib,
        passes=settings.argon2_passes,
        lanes=1,
        workers=settings.argon2_workers,
    )


def _service_secrets(settings: IdentitySettings) -> dict[str, tuple[bytes, ...]]:
    """SHA-256 digests of the services' secrets. Raises ValueError with one clear line."""
    secrets = {
        name: [secret.get_secret_value() for secret in (given if isinstance(given, list) else [given])]
        for name, given in settings.service_secrets.items()
    }
    if settings.service_secrets_file:
        stored = _json_file("SERVICE_SECRETS_FILE", settings.service_secrets_file)
        secrets |= {
            name: [str(secret) for secret in (given if isinstance(given, list) else [given])]
            for name, given in stored.items()
        }
    if empty := [name for name, given in secrets.items() if not given]:
        raise ValueError(f"SERVICE_SECRETS: there is no secret of {empty[0]}")
    return {name: tuple(_digest(name, secret) for secret in given) for name, given in secrets.items()}


def _digest(name: str, secret: str) -> bytes:
    form, _, digest = secret.partition(":")
    if form == "sha256":
        found = bytes.fromhex(digest)
        if len(found) != hashlib.sha256().digest_size:
            raise ValueError(f"SERVICE_SECRETS: what {name} has after sha256: is no SHA-256")
        return found
    if not secret:
        raise ValueError(f"SERVICE_SECRETS: the secret of {name} is empty")
    return hashlib.sha256(secret.encode()).digest()


def _json_file(setting: str, path: str) -> dict[str, Any]:
    try:
        stored = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{setting}: {error}") from None
    if not isinstance(stored, dict):
        raise ValueError(f"{setting}: {path} is not a JSON object")
    return stored
