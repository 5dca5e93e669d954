"""Documents: parsed and validated once, bounded in size and cost, and in production only those we know."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    Visitor,
    get_operation_ast,
    is_object_type,
    parse,
    validate,
    visit,
)

_KEPT = 1000  # documents


class Refused(Exception):
    """The document cannot be run; `errors` say why."""

    def __init__(self, *errors: GraphQLError) -> None:
        super().__init__(errors[0].message)
        self.errors = list(errors)


@dataclass(frozen=True)
class Limits:
    """Bounds of one document."""

    tokens: int = 2000
    depth: int = 15
    aliases: int = 30
    cost: int = 20_000


@dataclass(frozen=True)
class Prepared:
    """A valid document. `key` is the SHA-256 of its text."""

    key: str
    document: DocumentNode
    costs: dict[str, _Cost]

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """The operation to run. Raises Refused when the name does not say which."""
        found = get_operation_ast(self.document, name)
        if found is None:
            raise Refused(
                GraphQLError(f"No operation named {name}." if name else "operationName must say which.")
            )
        return found


@dataclass(frozen=True)
class _Cost:
    """A field: how often its children count (a number, or the variable that has it), and the children."""

    times: int | str
    fallback: int
    children: list[_Cost]

    def total(self, variables: Mapping[str, Any]) -> int:
        times = self.times
        if isinstance(times, str):
            given = variables.get(times)
            times = given if isinstance(given, int) and given > 0 else self.fallback
        return 1 + times * sum([child.total(variables) for child in self.children])


class Documents:
    """Turns request texts into documents of the schema, keeping the last thousand.

    With `trusted` (texts by SHA-256) nothing else is accepted.
    """

    def __init__(
        self, schema: GraphQLSchema, limits: Limits, trusted: Mapping[str, str] | None = None
    ) -> None:
        self._schema = schema
        self._limits = limits
        self._trusted = trusted
        self._known: OrderedDict[str, Prepared] = OrderedDict()
        self._pages = {
            name: int(field.args["first"].default_value)
            for type_ in schema.type_map.values()
            if is_object_type(type_)
            for name, field in type_.fields.items()
            if "first" in field.args
        }

    def prepare(self, text: str | None, key: str | None) -> Prepared:
        """The document with that text, or the trusted one with that SHA-256. Raises Refused."""
        if text is not None:
            given, key = key, hashlib.sha256(text.encode()).hexdigest()
            if given is not None and given != key:
                raise Refused(_error("The hash is not the document's.", "DOCUMENT_HASH_MISMATCH"))
        if key is None:
            raise Refused(_error("A document is needed.", "DOCUMENT_MISSING"))
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        if self._trusted is not None:
            text = self._trusted.get(key)
        if text is None:
            raise Refused(_error("This document is not known here.", "DOCUMENT_NOT_TRUSTED"))
        prepared = self._known[key] = self._prepare(text, key)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return prepared

    def check_cost(self, prepared: Prepared, operation: OperationDefinitionNode, variables: Any) -> None:
        """Raises Refused when the operation, with these variables, asks for too much."""
        cost = prepared.costs[operation.name.value if operation.name else ""].total(variables or {})
        if cost > self._limits.cost:
            told = f"The operation costs {cost}, more than {self._limits.cost}."
            raise Refused(_error(told, "TOO_COSTLY", limit=self._limits.cost, cost=cost))

    def _prepare(self, text: str, key: str) -> Prepared:
        try:
            document = parse(text, max_tokens=self._limits.tokens, no_location=False)
        except GraphQLError as error:
            if error.message.endswith("tokens. Parsing aborted."):
                error = _error(error.message, "TOO_MANY_TOKENS", limit=self._limits.tokens)
            raise Refused(error) from None
        except RecursionError:
            raise Refused(_error("The document nests too deeply.", "TOO_DEEP")) from None
        aliases = text.count(":") and _aliases(document)
        if aliases > self._limits.aliases:
            told = f"More than {self._limits.aliases} aliases."
            raise Refused(_error(told, "TOO_MANY_ALIASES", limit=self._limits.aliases))
        errors = validate(self._schema, document, max_errors=20)
        if errors:
            raise Refused(*errors)
        fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        costs = {}
        for definition in document.definitions:
            if isinstance(definition, OperationDefinitionNode):
                name = definition.name.value if definition.name else ""
                depth, children = self._measure(definition.selection_set, fragments, 1, [0])
                if depth > self._limits.depth:
                    told = f"Deeper than {self._limits.depth} levels."
                    raise Refused(_error(told, "TOO_DEEP", limit=self._limits.depth))
                costs[name] = _Cost(1, 1, children)
        return Prepared(key, document, costs)

    def _measure(
        self,
        selections: SelectionSetNode,
        fragments: Mapping[str, FragmentDefinitionNode],
        level: int,
        visited: list[int],
    ) -> tuple[int, list[_Cost]]:
        """Depth below here, and the costs of the fields. Fragments count wherever they are spread."""
        deepest, costs = level, []
        for selection in selections.selections:
            visited[0] += 1
            if visited[0] > self._limits.cost:
                raise Refused(_error("The fragments spread too far.", "TOO_COSTLY"))
            if isinstance(selection, FieldNode):
                if selection.name.value.startswith("__"):
                    continue  # introspection is deep by nature, and free
                times, fallback = self._times(selection)
                depth, children = level, list[_Cost]()
                if selection.selection_set is not None:
                    depth, children = self._measure(selection.selection_set, fragments, level + 1, visited)
                costs.append(_Cost(times, fallback, children))
            else:
                inner = (
                    fragments[selection.name.value].selection_set
                    if isinstance(selection, FragmentSpreadNode)
                    else cast(InlineFragmentNode, selection).selection_set
                )
                depth, children = self._measure(inner, fragments, level, visited)
                costs.extend(children)
            deepest = max(deepest, depth)
        return deepest, costs

    def _times(self, node: FieldNode) -> tuple[int | str, int]:
        """How often what is below a field counts: a number or the variable that says it, and its default."""
        default = self._pages.get(node.name.value, 1)
        for argument in node.arguments or ():
            if argument.name.value == "first":
                if isinstance(argument.value, IntValueNode):
                    return max(1, int(argument.value.value)), default
                if isinstance(argument.value, VariableNode):
                    return argument.value.name.value, default
        return default, default


def _aliases(document: DocumentNode) -> int:
    class Count(Visitor):
        found = 0

        def enter_field(self, node: FieldNode, *_: Any) -> None:
            self.found += node.alias is not None

    count = Count()
    visit(document, count)
    return count.found


def _error(message: str, reason: str, **more: int) -> GraphQLError:
    return GraphQLError(message, extensions={"reason": reason, **more})


def read_trusted(path: str) -> dict[str, str]:
    """The documents of a file: JSON, text by SHA-256. Raises ValueError when a text is not the one of its
    hash."""
    documents: dict[str, str] = orjson.loads(Path(path).read_bytes())
    for key, text in documents.items():
        if not re.fullmatch(r"[0-9a-f]{64}", key) or hashlib.sha256(text.encode()).hexdigest() != key:
            raise ValueError(f"{path}: {key} is not the SHA-256 of its document")
    return documents
