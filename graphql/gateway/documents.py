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
    FloatValueNode,
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

from gateway.execution import Shapes

_KEPT = 1000  # documents
_KEPT_TOKENS = 300_000  # of all of them; a token takes half a kilobyte
_TOKEN = 100  # characters that count as one more token: long texts and comments are kept too
_MOST = 2**31  # an Int is below
_INTROSPECTION = {"__schema": 5000, "__type": 500}  # what they cost: the whole schema is a lot to answer
_INTROSPECTION_DEPTH = 20  # levels that asking for the whole schema takes, with room
_MOST_DIGITS = 400  # of a number: a double has 309 before its point, and Python reads none beyond 4300
_LONG_NUMBER = re.compile(rf"[0-9]{{{_MOST_DIGITS // 4}}}")  # of whatever is longer, some part is
_PAIRS = 5000  # pairs of fields in one place of the answer, which validation compares one by one


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
    letters: int = 64_000  # a token may be as long as it likes, and so may what stands between two


@dataclass(frozen=True)
class Prepared:
    """A valid document, and what the executor works out about it."""

    document: DocumentNode
    shapes: Shapes
    size: int
    costs: dict[str, _Cost]
    roots: dict[str, frozenset[str]]
    """Names of the root fields by operation."""

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
            given = variables.get(times)  # 100.0 is an Int too
            times = int(given) if isinstance(given, int | float) and 0 < given < _MOST else self.fallback
        return 1 + times * sum([child.total(variables) for child in self.children])


class Documents:
    """Turns request texts into documents of the schema, keeping the last thousand, or fewer large ones.

    With `trusted` (texts by SHA-256) nothing else is accepted.
    """

    def __init__(
        self, schema: GraphQLSchema, limits: Limits, trusted: Mapping[str, str] | None = None
    ) -> None:
        self._schema = schema
        self._limits = limits
        self._trusted = trusted
        self._known: OrderedDict[str, Prepared] = OrderedDict()
        self._size = 0
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
        prepared = self._known[key] = self._prepare(text)
        self._size += prepared.size
        while len(self._known) > _KEPT or self._size > _KEPT_TOKENS:
            self._size -= self._known.popitem(last=False)[1].size
        return prepared

    def check_cost(self, prepared: Prepared, operation: OperationDefinitionNode, variables: Any) -> None:
        """Raises Refused when the operation, with these variables, asks for too much."""
        cost = prepared.costs[operation.name.value if operation.name else ""].total(variables or {})
        if cost > self._limits.cost:
            told = f"The operation costs {cost}, more than {self._limits.cost}."
            raise Refused(_error(told, "TOO_COSTLY", limit=self._limits.cost, cost=cost))

    def _prepare(self, text: str) -> Prepared:
        if len(text) > self._limits.letters:
            told = f"The document has more than {self._limits.letters} letters."
            raise Refused(_error(told, "TOO_MANY_TOKENS", limit=self._limits.tokens))
        try:
            document = parse(text, max_tokens=self._limits.tokens, no_location=False)
        except GraphQLError as error:
            if error.message.endswith("tokens. Parsing aborted."):
                error = _error(error.message, "TOO_MANY_TOKENS", limit=self._limits.tokens)
            raise Refused(error) from None
        except RecursionError:
            raise Refused(_error("The document nests too deeply.", "TOO_DEEP")) from None
        if _LONG_NUMBER.search(text) and _long_numbers(document):
            raise Refused(_error(f"A number has at most {_MOST_DIGITS} digits.", "OUT_OF_RANGE"))
        aliases = text.count(":") and _aliases(document)
        if aliases > self._limits.aliases:
            told = f"More than {self._limits.aliases} aliases."
            raise Refused(_error(told, "TOO_MANY_ALIASES", limit=self._limits.aliases))
        fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        self._check_repeats(document, fragments)
        errors = validate(self._schema, document, max_errors=20)
        if errors:
            raise Refused(*errors)
        costs, roots = {}, {}
        for definition in document.definitions:
            if isinstance(definition, OperationDefinitionNode):
                name = definition.name.value if definition.name else ""
                fields, _ = _collected([definition.selection_set], fragments)
                roots[name] = frozenset(field.name.value for field in fields)
                depth, children = self._measure(
                    definition.selection_set, fragments, _defaults(definition), 1, [0]
                )
                if depth > self._limits.depth:
                    told = f"Deeper than {self._limits.depth} levels."
                    raise Refused(_error(told, "TOO_DEEP", limit=self._limits.depth))
                costs[name] = _Cost(1, 1, children)
        size = (document.token_count or 0) + len(text) // _TOKEN
        return Prepared(document, Shapes(document), size, costs, roots)

    def _check_repeats(self, document: DocumentNode, fragments: Mapping[str, FragmentDefinitionNode]) -> None:
        """Raises Refused when the same fields repeat so often that validation would take seconds."""
        visited = pairs = 0
        waiting = [
            (0, [definition.selection_set])
            for definition in document.definitions
            if isinstance(definition, OperationDefinitionNode | FragmentDefinitionNode)
        ]
        while waiting:
            level, sets = waiting.pop()
            if level > self._limits.depth + _INTROSPECTION_DEPTH:  # also where fragments go round in circles
                raise Refused(_error("The document nests too deeply.", "TOO_DEEP", limit=self._limits.depth))
            places: dict[str, list[FieldNode]] = {}
            fields, seen = _collected(sets, fragments)
            visited += seen
            for field in fields:
                places.setdefault((field.alias or field.name).value, []).append(field)
            for fields in places.values():
                pairs += len(fields) * (len(fields) - 1) // 2
                if pairs > _PAIRS or visited > self._limits.cost:
                    raise Refused(_error("The same fields repeat too often.", "TOO_COSTLY"))
                if inner := [field.selection_set for field in fields if field.selection_set]:
                    waiting.append((level + 1, inner))

    def _measure(
        self,
        selections: SelectionSetNode,
        fragments: Mapping[str, FragmentDefinitionNode],
        defaults: Mapping[str, int],
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
                if selection.name.value.startswith("__"):  # deep by nature
                    costs.append(_Cost(_INTROSPECTION.get(selection.name.value, 0), 0, [_Cost(1, 1, [])]))
                    continue
                times, fallback = self._times(selection, defaults)
                depth, children = level, list[_Cost]()
                if selection.selection_set is not None:
                    depth, children = self._measure(
                        selection.selection_set, fragments, defaults, level + 1, visited
                    )
                costs.append(_Cost(times, fallback, children))
            else:
                inner = (
                    fragments[selection.name.value].selection_set
                    if isinstance(selection, FragmentSpreadNode)
                    else cast(InlineFragmentNode, selection).selection_set
                )
                depth, children = self._measure(inner, fragments, defaults, level, visited)
                costs.extend(children)
            deepest = max(deepest, depth)
        return deepest, costs

    def _times(self, node: FieldNode, defaults: Mapping[str, int]) -> tuple[int | str, int]:
        """How often what is below a field counts: a number or the variable that says it, and its default."""
        default = self._pages.get(node.name.value, 1)
        for argument in node.arguments or ():
            if argument.name.value == "first":
                if isinstance(argument.value, IntValueNode):
                    return max(1, int(argument.value.value)), default
                if isinstance(argument.value, VariableNode):
                    name = argument.value.name.value
                    return name, defaults.get(name, default)
        return default, default


def _defaults(operation: OperationDefinitionNode) -> dict[str, int]:
    """The operation's variables that are a number unless given."""
    return {
        definition.variable.name.value: int(definition.default_value.value)
        for definition in operation.variable_definitions or ()
        if isinstance(definition.default_value, IntValueNode)
    }


def _collected(
    sets: list[SelectionSetNode], fragments: Mapping[str, FragmentDefinitionNode]
) -> tuple[list[FieldNode], int]:
    """The fields of these selections and of their fragments, each spread once; and how much was looked at."""
    fields: list[FieldNode] = []
    seen = 0
    spread: set[str] = set()
    waiting = list(sets)
    while waiting:
        for selection in waiting.pop().selections:
            seen += 1
            if isinstance(selection, FieldNode):
                fields.append(selection)
            elif isinstance(selection, InlineFragmentNode):
                waiting.append(selection.selection_set)
            elif isinstance(selection, FragmentSpreadNode) and selection.name.value not in spread:
                spread.add(selection.name.value)
                if selection.name.value in fragments:  # validation tells of one that is not
                    waiting.append(fragments[selection.name.value].selection_set)
    return fields, seen


def _long_numbers(document: DocumentNode) -> bool:
    class Look(Visitor):
        found = False

        def enter_int_value(self, node: IntValueNode, *_: Any) -> None:
            self.found |= len(node.value) > _MOST_DIGITS

        def enter_float_value(self, node: FloatValueNode, *_: Any) -> None:
            self.found |= len(node.value) > _MOST_DIGITS

    look = Look()
    visit(document, look)
    return look.found


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
