"""Our executor gives graphql-core's answers: on generated queries, with failures and awaitables anywhere."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from graphql import (
    GraphQLError,
    GraphQLObjectType,
    NoUnusedFragmentsRule,
    NoUnusedVariablesRule,
    OperationDefinitionNode,
    build_schema,
    execute,
    parse,
    print_ast,
    specified_rules,
    validate,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.context import Context
from gateway.documents import Documents, Limits
from gateway.errors import formatted
from gateway.execution import Shapes
from gateway.execution import execute as run
from gateway.live import Live
from gateway.schema import schema as gateway_schema
from gateway.schema import strawberry_schema
from gateway.services import Services
from gateway.settings import GatewaySettings
from kit.auth import Caller
from kit.errors import Forbidden
from kit.grpc_client import connect

SDL = """
interface Node { id: ID! }
union Thing = A | B
type A implements Node {
  id: ID! name: String strict: String! number(by: Int = 2): Int! self: A next: B! list: [B!]! loose: [A]
  thing: Thing things: [Thing!] node: Node grid: [[Int!]!]
}
type B implements Node { id: ID! title: String! flag: Boolean kind: Kind a: A! maybe: [B] float: Float }
enum Kind { ONE TWO }
type Query { a: A b: B! things: [Thing] node: Node }
type Mutation { first: A second: A! }
"""
RULES = [rule for rule in specified_rules if rule not in (NoUnusedFragmentsRule, NoUnusedVariablesRule)]
KINDS = ("value", "null", "error", "wait", "wait-null", "wait-error", "wait-value")


def make(outcomes: list[str]) -> Any:
    """A schema whose composite and leaf resolvers behave by turns, the same way for the same place."""
    schema = build_schema(SDL)

    def resolver(type_name: str, field_name: str, field: Any) -> Any:
        def produce(depth: int) -> Any:
            text = str(field.type)
            if "[[" in text:
                return [[1, 2], [3]]
            one: Any = {"depth": depth + 1}
            if "Thing" in text or "Node" in text:
                one["type"] = "A" if depth % 2 else "B"
            elif "Kind" in text:
                one = "TWO"
            elif "Int" in text:
                one = depth
            elif "Float" in text:
                one = 1.5
            elif "Boolean" in text:
                one = True
            elif "String" in text or "ID" in text:
                one = f"{type_name}.{field_name}"
            if "[" in text:
                second: Any = asyncio.sleep(0, one) if outcomes[depth % len(outcomes)] == "wait" else one
                return [one, second]
            return one

        def resolve(source: Any, _info: Any, **arguments: Any) -> Any:
            depth = source["depth"] if source else 0
            how = outcomes[(depth * 7 + len(field_name) * 3 + len(type_name)) % len(outcomes)]
            value = None if "null" in how else GraphQLError("broken") if "error" in how else produce(depth)
            if how == "error":
                raise ValueError(f"{type_name}.{field_name}")
            if how.startswith("wait"):

                async def later() -> Any:
                    await asyncio.sleep(0)
                    if isinstance(value, Exception):
                        raise value
                    return value + arguments["by"] if arguments and value is not None else value

                return later()
            return value + arguments["by"] if arguments and value is not None else value

        return resolve

    for type_ in schema.type_map.values():
        if type_.name in ("Thing", "Node"):
            type_.resolve_type = lambda value, _info, _type: value["type"]  # type: ignore[attr-defined]
        elif isinstance(type_, GraphQLObjectType) and not type_.name.startswith("__"):
            for name, field in type_.fields.items():
                field.resolve = resolver(type_.name, name, field)
    return schema


SCHEMA = make(["value"])
COMPOSITE = {
    "Query": {"a": "A", "b": "B", "things": "Thing", "node": "Node"},
    "Mutation": {"first": "A", "second": "A"},
    "A": {
        "self": "A",
        "next": "B",
        "list": "B",
        "loose": "A",
        "thing": "Thing",
        "things": "Thing",
        "node": "Node",
    },
    "B": {"a": "A", "maybe": "B"},
    "Thing": {},
    "Node": {},
}
LEAVES = {
    "Query": [],
    "Mutation": [],
    "A": ["id", "name", "strict", "number", "number(by: 5)", "number(by: $by)", "grid"],
    "B": ["id", "title", "flag", "kind", "float"],
    "Thing": [],
    "Node": ["id"],
}
WORKSPACE = """query Workspace($dossiers: Int!, $notices: Int!, $id: ID!, $names: Boolean! = true) {
  viewer {
    __typename id kind ...Named @include(if: $names)
    dossiers(first: $dossiers) {
      edges { cursor node { ...Row } }
      pageInfo { hasNextPage endCursor }
    }
    notices(first: $notices) { nodes { id title createTime readTime } }
  }
  again: viewer { id unreadNotices }
  node(id: $id) { __typename id ... on Document { title } ... on Dossier { code } }
  nothing: node(id: "x") { id }
  track(code: "x") { code }
}
fragment Named on Account { id name }
fragment Row on Dossier {
  id code state createTime dueTime applicant { ...Named } receivingAgency { code name }
  procedure { code name decision @skip(if: $names) } charges { id state amount { amount currency } }
}"""
DIRECTIVES = ["", "", "", " @skip(if: $yes)", " @include(if: $yes)", " @skip(if: false)"]


@st.composite
def selections(draw: Any, type_name: str, depth: int = 4) -> str:
    """A selection set of the type, without conflicts: an alias is unique to its field and arguments."""
    parts = ["__typename"] if draw(st.booleans()) or not LEAVES[type_name] else []
    for leaf in draw(st.lists(st.sampled_from(LEAVES[type_name] or ["__typename"]), max_size=4)):
        alias = "".join(letter for letter in leaf if letter.isalnum()) if "(" in leaf else ""
        parts.append(f"{alias and alias + ': '}{leaf}{draw(st.sampled_from(DIRECTIVES))}")
    if depth:
        for field in draw(st.lists(st.sampled_from(sorted(COMPOSITE[type_name]) or [""]), max_size=3)):
            if field:
                inner = draw(selections(COMPOSITE[type_name][field], depth - 1))
                directive = draw(st.sampled_from(DIRECTIVES))
                parts.append(f"{field}{directive} {inner}")
        if type_name in ("Thing", "Node") or draw(st.booleans()):
            on = draw(st.sampled_from(["A", "B"])) if type_name in ("Thing", "Node") else type_name
            if on in ("A", "B"):
                directive = draw(st.sampled_from(DIRECTIVES))
                parts.append(f"... on {on}{directive} {draw(selections(on, depth - 1))}")
                parts.append(f"...F{on}")
    return "{ " + " ".join(parts or ["__typename"]) + " }"


@st.composite
def documents(draw: Any) -> str:
    kind = draw(st.sampled_from(["query", "query", "mutation"]))
    root = draw(selections("Query" if kind == "query" else "Mutation"))
    return (
        f"{kind} Q($yes: Boolean! = true, $by: Int) {root} "
        "fragment FA on A { id name } fragment FB on B { ...FN title } fragment FN on Node { id }"
    )


# graphql-core leaves awaitables behind when a null propagates; ours awaits them all.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=60, deadline=None)
@given(
    documents(),
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=12),
    st.fixed_dictionaries({}, optional={"yes": st.booleans(), "by": st.integers(-5, 5)}),
)
def test_it_answers_what_graphql_core_answers(
    text: str, outcomes: list[str], variables: dict[str, Any]
) -> None:
    document = parse(text)
    assert validate(SCHEMA, document, RULES) == []
    schema = make(outcomes)
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)

    async def both() -> tuple[Any, Any]:
        expected: Any = execute(schema, document, variable_values=variables)
        if hasattr(expected, "__await__"):
            expected = await expected
        return expected, await run(schema, Shapes(document), operation, None, variables=variables)

    expected, got = asyncio.run(both())
    assert got.data == expected.data, print_ast(document)
    assert list(_order(got.data)) == list(_order(expected.data))
    # Once a place is null, errors below it may or may not be told (spec, 6.4.4).
    told = {(tuple(error.path or ()), error.message) for error in got.errors}
    for error in expected.errors or []:
        where = tuple(error.path or ())
        assert any(path == where for path, _ in told) or _nulled(expected.data, where)
    assert bool(got.errors) == bool(expected.errors)


def _order(data: Any) -> Any:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from _order(value)
    elif isinstance(data, list):
        for value in data:
            yield from _order(value)


def _nulled(data: Any, path: tuple[str | int, ...]) -> bool:
    """Whether something above the place is null."""
    for key in path[:-1]:
        if data is None:
            return True
        data = data[key]
    return data is None


async def test_shapes_follow_the_variables_of_skip_and_include() -> None:
    document = parse("query ($x: Boolean!) { a { id @skip(if: $x) name @include(if: $x) } }")
    shapes = Shapes(document)
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    for value, field in ((True, "name"), (False, "id"), (True, "name")):
        result = await run(SCHEMA, shapes, operation, None, variables={"x": value})
        assert result.data == {"a": {field: f"A.{field}"}}


async def test_root_fields_of_a_mutation_run_one_after_another() -> None:
    schema = build_schema("type Query { a: Int } type Mutation { a: Int b: Int c: Int }")
    seen: list[str] = []

    def resolver(name: str) -> Any:
        async def resolve(_root: Any, _info: Any) -> int:
            seen.append(f"{name}>")
            await asyncio.sleep(0)
            seen.append(f"<{name}")
            return 1

        return resolve

    mutation = schema.mutation_type
    assert mutation is not None
    for name, field in mutation.fields.items():
        field.resolve = resolver(name)
    document = parse("mutation { a b c }")
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    await run(schema, Shapes(document), operation, None)
    assert seen == ["a>", "<a", "b>", "<b", "c>", "<c"]


async def test_a_mutation_ends_with_the_root_field_that_may_not_be_null() -> None:
    schema = build_schema("type Query { a: Int } type Mutation { a: Int! b: Int! }")
    seen: list[str] = []

    async def fails(_root: Any, _info: Any) -> int:
        seen.append("a")
        raise ValueError("broken")

    mutation = schema.mutation_type
    assert mutation is not None
    mutation.fields["a"].resolve = fails
    mutation.fields["b"].resolve = lambda _root, _info: seen.append("b")
    document = parse("mutation { a b }")
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    result = await run(schema, Shapes(document), operation, None)
    assert result.data is None
    assert [error.path for error in result.errors] == [["a"]]
    assert seen == ["a"]


async def test_a_variable_that_switches_in_one_operation_may_be_a_list_in_another() -> None:
    schema = build_schema("type Query { a(of: [Int!]): Int }")
    assert schema.query_type is not None
    schema.query_type.fields["a"].resolve = lambda _root, _info, of=(): sum(of)
    document = parse("query A($x: Boolean!) { a @skip(if: $x) } query B($x: [Int!]) { a(of: $x) }")
    operation = document.definitions[1]
    assert isinstance(operation, OperationDefinitionNode)
    result = await run(schema, Shapes(document), operation, None, variables={"x": [1, 2]})
    assert (result.data, result.errors) == ({"a": 3}, [])


@pytest.mark.parametrize("text", ["{ a @skip(if: $x) { id } }", "{ a { id @skip(if: $x) } }"])
async def test_a_null_condition_is_an_error_of_the_answer(text: str) -> None:
    document = parse(f"query ($x: Boolean = true) {text}")
    assert validate(SCHEMA, document) == []
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    shapes = Shapes(document)
    for variables in ({}, {"x": None}):
        expected: Any = execute(SCHEMA, document, variable_values=variables)
        got = await run(SCHEMA, shapes, operation, None, variables=variables)
        assert got.data == expected.data
        assert [error.message for error in got.errors] == [error.message for error in expected.errors or []]


@pytest.mark.parametrize(
    ("type_", "value"), [("Int", 2**40), ("Int!", None), ("[Int]", "12"), ("String", {"a": 1}), ("Union", 1)]
)
async def test_a_value_that_does_not_fit_is_a_fault_of_ours_and_not_told(type_: str, value: Any) -> None:
    schema = build_schema(f"type A {{ id: ID }} union Union = A type Query {{ a: {type_} }}")
    assert schema.query_type is not None
    schema.query_type.fields["a"].resolve = lambda _root, _info: value
    document = parse("{ a { __typename } }" if type_ == "Union" else "{ a }")
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    result = await run(schema, Shapes(document), operation, None)
    told = formatted(result.errors[0], "en")
    assert told["extensions"]["code"] == "INTERNAL"
    assert told["message"].startswith("Something went wrong")


async def test_strawberry_answers_the_same_on_the_bound_schema(
    settings_for: Callable[..., GatewaySettings], fakes: Any, issue: Callable[..., str]
) -> None:
    """The schema stays an ordinary one: its plain resolvers work under Strawberry's executor too."""
    services = Services(settings_for().targets, connect)
    document = parse(WORKSPACE)
    assert validate(gateway_schema(), document) == []
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    variables = {"dossiers": 20, "notices": 5, "id": b64encode(b"Document:document-1").decode()}
    fakes.fail["GetUnreadCount"] = Forbidden("NOT_YOUR_ACCOUNT", "no")

    def context() -> Context:
        return Context(services, Live(), Caller("account-an", "citizen"), issue())

    try:
        expected = await strawberry_schema().execute(
            print_ast(document),
            variable_values=variables,
            context_value=context(),
            operation_name="Workspace",
        )
        rpcs = fakes.calls.copy()
        fakes.calls.clear()
        got = await run(gateway_schema(), Shapes(document), operation, context(), variables=variables)
    finally:
        await services.close()
    assert expected.data is not None
    assert got.data == expected.data
    assert list(_order(got.data)) == list(_order(expected.data))
    assert [error.path for error in got.errors] == [["again", "unreadNotices"]]
    assert [(error.path, error.message) for error in got.errors] == [
        (error.path, error.message) for error in expected.errors or []
    ]
    assert fakes.calls == rpcs


async def test_the_shapes_kept_of_a_document_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.execution._SHAPES", 5)
    names = "abcd"
    document = parse(
        f"query ({' '.join(f'${name}: Boolean!' for name in names)}) {{ __typename "
        + " ".join(f"{name}: a @skip(if: ${name}) {{ id }}" for name in names)
        + " }"
    )
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    shapes = Shapes(document)
    for number in range(2 * 16):
        given = {name: bool(number >> bit & 1) for bit, name in enumerate(names)}
        result = await run(SCHEMA, shapes, operation, None, variables=given)
        assert result.data is not None
        assert set(result.data) == {"__typename"} | {name for name in names if not given[name]}
    assert len(shapes._fields) == 5


def test_the_documents_kept_are_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Documents(SCHEMA, Limits())
    monkeypatch.setattr("gateway.documents._KEPT", 10)
    for number in range(20):
        documents.prepare(f"query Q{number} {{ a {{ id }} }}", None)
    assert len(documents._known) == 10
    monkeypatch.setattr("gateway.documents._KEPT_TOKENS", 500)
    for number in range(20):
        documents.prepare(f"query Q{number} {{ a {{ id }} }} # {'x' * 10_000}", None)
    assert len(documents._known) == 4
    assert documents.prepare("{ b { id } }", None) is documents.prepare("{ b { id } }", None)
