"""Binds SDL to plain resolvers over protobuf messages.

A part of the schema is SDL with its resolvers. A field without a resolver reads the message field of its name in
snake_case; whatever is bound to neither stops the start, so that SDL and protos cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from keyword import iskeyword
from operator import attrgetter
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from graphql import (
    GraphQLEnumType,
    GraphQLError,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLUnionType,
    build_schema,
    value_from_ast_untyped,
)

from gateway.execution import Info, Resolver, never_waits
from gateway.ids import from_global, to_global

M = TypeVar("M", bound=Message)
_LONG = 2**53  # what a JSON reader with doubles holds exactly


@dataclass
class Part:
    """A part of the schema: its SDL, its resolvers, and the classes whose instances are its types."""

    sdl: str
    resolvers: dict[str, Resolver] = field(default_factory=dict)
    classes: dict[type, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    enums: dict[str, tuple[EnumTypeWrapper[Any], str]] = field(default_factory=dict)

    def resolve(self, *names: str) -> Callable[[Resolver], Resolver]:
        """Decorates the resolver of `Type.field`: `(source, info, **arguments)`, plain or async."""

        def bind(resolver: Resolver) -> Resolver:
            for name in names:
                self.resolvers[name] = resolver
            return resolver

        return bind

    def type(self, name: str, *classes: type, key: str = "") -> None:
        """Says that instances of these classes are of that type. `key` is the message field in its Node id."""
        for cls in classes:
            self.classes[cls] = name
        if key:
            self.keys[name] = key

    def enum(self, name: str, values: EnumTypeWrapper[Any], description: str) -> None:
        """Adds an enum with a message's values: `DOSSIER_STATE_DONE` of DossierState becomes `DONE`."""
        prefix = _snake(name).upper() + "_"
        names = [value.removeprefix(prefix) for value, number in values.items() if number]
        self.sdl += f'\n"""{description}"""\nenum {name} {{ {" ".join(names)} }}\n'
        self.enums[name] = (values, prefix)


def build(parts: Iterable[Part]) -> GraphQLSchema:
    """The executable schema. Raises TypeError for a field that nothing resolves, or a resolver without a field."""
    parts = list(parts)
    schema = build_schema("\n".join(part.sdl for part in parts))
    resolvers = {name: resolver for part in parts for name, resolver in part.resolvers.items()}
    classes = {cls: name for part in parts for cls, name in part.classes.items()}
    keys = {name: key for part in parts for name, key in part.keys.items()}
    for part in parts:
        for name, (values, prefix) in part.enums.items():
            _number(cast(GraphQLEnumType, schema.type_map[name]), values, prefix)
    _scalars(schema)
    for type_ in schema.type_map.values():
        if type_.name.startswith("__"):
            continue
        if isinstance(type_, GraphQLUnionType | GraphQLInterfaceType):
            type_.resolve_type = lambda value, _info, _type: classes.get(type(value))  # type: ignore[assignment]
        elif isinstance(type_, GraphQLObjectType):
            sources = [cls for cls, name in classes.items() if name == type_.name]
            for name, field_ in type_.fields.items():
                given = resolvers.pop(f"{type_.name}.{name}", None)
                for argument, definition in field_.args.items():
                    definition.out_name = _snake(argument) + "_" * iskeyword(argument)
                field_.resolve = given or _default(type_.name, name, field_, sources, keys)
    if resolvers:
        raise TypeError(f"no such fields: {', '.join(sorted(resolvers))}")
    return schema


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def camel(name: str) -> str:
    """`create_time` becomes `createTime`."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _default(
    type_name: str, name: str, field_: GraphQLField, sources: list[type], keys: Mapping[str, str]
) -> Resolver:
    if name == "id" and type_name in keys:
        key = attrgetter(keys[type_name])
        return never_waits(lambda source, _info: to_global(type_name, key(source)))
    attribute = _snake(name)
    get = attrgetter(attribute)
    if not sources:
        raise TypeError(f"{type_name}.{name} has no resolver and {type_name} no class")
    for source in sources:
        descriptor = getattr(source, "DESCRIPTOR", None)
        if descriptor is None:
            if attribute not in {each.name for each in fields(source)}:
                raise TypeError(f"{type_name}.{name}: {source.__name__} has no {attribute}")
            return never_waits(lambda value, _info: get(value))
        if attribute not in descriptor.fields_by_name:
            raise TypeError(f"{type_name}.{name}: {source.__name__} has no {attribute}")
    return reader(sources[0], attribute, nullable=not isinstance(field_.type, GraphQLNonNull))


def reader(message_class: type, attribute: str, *, nullable: bool) -> Resolver:
    """A resolver that reads a field of a message. Where null is allowed it stands for what proto3 leaves empty."""
    descriptor: FieldDescriptor = message_class.DESCRIPTOR.fields_by_name[attribute]  # type: ignore[attr-defined]
    get = attrgetter(attribute)
    if descriptor.is_repeated:
        return never_waits(lambda message, _info: get(message))
    if descriptor.message_type is not None:
        return never_waits(lambda message, _info: get(message) if message.HasField(attribute) else None)
    if descriptor.enum_type is not None or (nullable and descriptor.type != FieldDescriptor.TYPE_BOOL):
        return never_waits(lambda message, _info: get(message) or None)
    return never_waits(lambda message, _info: get(message))


def _number(enum: GraphQLEnumType, values: EnumTypeWrapper[Any], prefix: str) -> None:
    for name, value in enum.values.items():
        value.value = values.Value(prefix + name)


# Scalars


def _timestamp_out(value: Any) -> str:
    instant = datetime.fromtimestamp(value.seconds, UTC)
    return f"{instant.strftime('%Y-%m-%dT%H:%M:%S')}.{value.nanos // 1_000_000:03}Z"


def _timestamp_in(value: Any) -> Timestamp:
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            instant = None
        if instant is not None and instant.tzinfo is not None:
            made = Timestamp()
            made.FromDatetime(instant)
            return made
    raise GraphQLError("DateTime must be an instant with its zone, such as 2026-11-23T05:00:00Z.")


def _date_in(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        try:
            return datetime.strptime(value, "%Y-%m-%d").date().isoformat()
        except ValueError:
            pass
    raise GraphQLError("Date must be an ISO date, such as 2026-11-23.")


def _long_in(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LONG:
        return value
    raise GraphQLError("Long must be an integer of at most 53 bits.")


def _json_out(value: Any) -> Any:
    return MessageToDict(value) if isinstance(value, Message) else value


def _scalars(schema: GraphQLSchema) -> None:
    for name, output, read in (
        ("DateTime", _timestamp_out, _timestamp_in),
        ("Date", str, _date_in),
        ("Long", _long_in, _long_in),
        ("JSON", _json_out, lambda value: value),
    ):
        scalar = cast(GraphQLScalarType, schema.type_map[name])
        scalar.serialize = scalar.coerce_output_value = output  # type: ignore[method-assign,assignment]
        scalar.parse_value = scalar.coerce_input_value = read  # type: ignore[method-assign,assignment]
        scalar.parse_literal = (  # type: ignore[method-assign]
            lambda node, variables=None, read=read: read(value_from_ast_untyped(node, variables))
        )


# Requests


def fill(request: M, given: Mapping[str, Any], *, subject: str = "") -> M:
    """Copies an input into a request message and answers it.

    Names go from camelCase to snake_case. Global ids become keys, checked against the type that the name says
    (`documentId`: Document); the one called `subject` goes into the field `id` or `ids`. Raises InvalidInput for another id.
    """
    for name, value in given.items():
        if value is None:
            continue
        attribute = _snake(name)
        if name == subject:
            attribute = "ids" if isinstance(value, list) else "id"
        descriptor = request.DESCRIPTOR.fields_by_name[attribute]
        target = getattr(request, attribute)
        if name in ID_TYPES:
            value = _keys(name, value)
        if isinstance(value, Timestamp):
            target.CopyFrom(value)
        elif (
            descriptor.message_type is not None
            and descriptor.message_type.full_name == Struct.DESCRIPTOR.full_name
        ):
            ParseDict(value, target)
            target.SetInParent()
        elif descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            target.update({entry["unit"]: entry["count"] for entry in value})
        elif descriptor.message_type is not None:
            for item in value:
                fill(target.add(), item)
        elif descriptor.is_repeated:
            target.extend(value)
        else:
            setattr(request, attribute, value)
    return request


ID_TYPES = {
    "dossierId": "Dossier",
    "documentId": "Document",
    "supersededById": "Document",
    "chargeId": "Charge",
    "applicantId": "Account",
    "toOfficialId": "Account",
    "noticeIds": "Notice",
    "delegationId": "Delegation",
}
"""Names of arguments and input fields that hold Node ids, and the type that they must be of."""


def _keys(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [from_global(item, ID_TYPES[name], name) for item in value]
    return from_global(value, ID_TYPES[name], name)


__all__ = ["Info", "Part", "build", "fill"]
