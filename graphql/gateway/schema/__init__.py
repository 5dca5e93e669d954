"""The schema, put together from one module a context."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import strawberry
from graphql import GraphQLSchema
from strawberry.tools import merge_types

from gateway.binding import bind
from gateway.scalars import CONFIG
from gateway.schema.base import NodeQuery
from gateway.schema.catalog import CatalogQuery
from gateway.schema.dossier import DossierMutation, DossierQuery, DossierSubscription, dossier_changed
from gateway.schema.identity import IdentityMutation, IdentityQuery
from gateway.schema.notify import NotifyMutation, NotifySubscription, new_notices
from gateway.schema.payment import PaymentMutation, PaymentQuery
from gateway.schema.vault import VaultMutation, VaultSubscription, document_changed

Source = Callable[..., AsyncIterator[Any]]

SOURCES: dict[str, Source] = {
    "dossierChanged": dossier_changed,
    "documentChanged": document_changed,
    "notices": new_notices,
}
"""What each subscription streams: `(context, **arguments)`."""


@cache
def strawberry_schema() -> strawberry.Schema:
    """The schema as Strawberry knows it, its fields bound to plain resolvers; made once."""
    made = strawberry.Schema(
        query=merge_types("Query", (NodeQuery, IdentityQuery, CatalogQuery, DossierQuery, PaymentQuery)),
        mutation=merge_types(
            "Mutation", (IdentityMutation, DossierMutation, VaultMutation, PaymentMutation, NotifyMutation)
        ),
        subscription=merge_types(
            "Subscription", (DossierSubscription, VaultSubscription, NotifySubscription)
        ),
        config=CONFIG,
    )
    bind(made._schema)
    return made


def schema() -> GraphQLSchema:
    """The executable schema."""
    return strawberry_schema()._schema
