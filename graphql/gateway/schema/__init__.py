"""The schema, put together from one part a context."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

from graphql import GraphQLSchema

from gateway.binding import build
from gateway.execution import never_waits
from gateway.schema import base, catalog, dossier, identity, notify, payment, vault

Source = Callable[..., AsyncIterator[Any]]

SOURCES: dict[str, Source] = {"dossierChanged": dossier.dossier_changed, "notices": notify.new_notices}
"""What each subscription streams: `(context, **arguments)`."""

for _name in SOURCES:
    base.part.resolve(f"Subscription.{_name}")(never_waits(lambda event, _info, **_arguments: event))


@cache
def schema() -> GraphQLSchema:
    """The executable schema; made once."""
    return build([part.part for part in (base, identity, catalog, dossier, vault, payment, notify)])
