"""The GraphQL schema: what is checked in is what is served, and is valid."""

from __future__ import annotations

from graphql import GraphQLObjectType, validate_schema

from dev.schema import stale
from gateway.schema import schema


def test_the_schema_checked_in_is_the_one_served() -> None:
    assert stale() == []


def test_the_schema_is_valid() -> None:
    assert validate_schema(schema()) == []


def test_every_type_with_an_id_that_node_finds_is_a_node() -> None:
    nodes = {type_.name for type_ in schema().get_possible_types(schema().type_map["Node"])}  # type: ignore[arg-type]
    assert {"Account", "Agency", "Procedure", "Dossier", "Document", "Charge", "Receipt", "Notice"} <= nodes


def test_every_field_resolves_without_the_executor_guessing() -> None:
    for type_ in schema().type_map.values():
        if isinstance(type_, GraphQLObjectType) and not type_.name.startswith("__"):
            for name, field in type_.fields.items():
                assert field.resolve is not None, f"{type_.name}.{name}"
