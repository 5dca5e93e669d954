"""A dossier's form against the JSON Schema of its procedure's version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kit import schemas
from kit.bounded import Workers
from kit.errors import DomainError, FailedPrecondition, FieldViolation

_CPU = 1.0  # seconds; the largest form against the largest schema of the catalogue takes a tenth
_MEMORY = 128 << 20
_WALL = 10.0
_WAITING = 64


class Forms:
    """Checks forms in processes of their own: what a schema and a form cost together nobody can know."""

    def __init__(self, processes: int = 1) -> None:
        self._workers = Workers(
            processes,
            cpu_seconds=_CPU,
            memory_bytes=_MEMORY,
            wall_seconds=_WALL,
            waiting=_WAITING,
            modules=["kit.schemas"],
        )

    async def violations(
        self, procedure: str, schema: Mapping[str, Any], form: Mapping[str, Any]
    ) -> list[FieldViolation]:
        """What is wrong with the form, by JSON Pointer; at most 50. Reasons are the schema's keywords in
        UPPER_SNAKE. Raises FailedPrecondition BAD_SCHEMA when the schema itself is broken, TooExpensive,
        RateLimited when too many forms wait."""
        try:
            return await self._workers.run(schemas.violations, _text(schema), dict(form))
        except FailedPrecondition as error:
            raise _of(procedure, error) from None

    async def unknown(
        self, procedure: str, schema: Mapping[str, Any], form: Mapping[str, Any]
    ) -> list[FieldViolation]:
        """The keys that the schema neither names nor allows (UNKNOWN_KEY); at most 50. Raises as above."""
        try:
            return await self._workers.run(schemas.strangers, _text(schema), dict(form)) if form else []
        except FailedPrecondition as error:
            raise _of(procedure, error) from None

    async def close(self) -> None:
        """Ends the processes."""
        await self._workers.close()


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False)


def _of(procedure: str, error: FailedPrecondition) -> DomainError:
    return FailedPrecondition(error.reason, error.message, procedure=procedure)
