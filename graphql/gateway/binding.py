"""Strawberry types as views of protobuf messages.

The schema is declared with Strawberry; what its resolvers pass around are protobuf messages, never instances
of the declared classes. `view` names the messages that a type shows. `bind` gives every field of the built
schema its plain resolver: the declared one, or a reader of the message field of the same name. A field with
neither stops the start, so that schema and protos cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter
from typing import Any, TypeVar, cast

import strawberry
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from graphql import (
    GraphQLArgument,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    Undefined,
)
from strawberry.types.field import StrawberryField

from gateway.execution import Resolver, never_waits
from gateway.ids import from_global, to_global
from kit.errors import FieldViolation, InvalidInput

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class _View:
    sources: tuple[type, ...]
    key: str


_VIEWS: dict[type, _View] = {}


def view(*sources: type, key: str = "", name: str | None = None) -> Callable[[type[T]], type[T]]:
    """Decorates a Strawberry type that shows these classes, messages as a rule; its docstring is the
    description.

    `key` is the source's field in the type's Node id.
    """

    def decorate(cls: type[T]) -> type[T]:
        made = strawberry.type(cls, name=name, description=_described(cls))
        _VIEWS[made] = _View(sources, key)
        return made

    return decorate


def interface(cls: type[T]) -> type[T]:
    """Decorates an interface; its docstring is the description."""
    return strawberry.interface(cls, description=_described(cls))


def enum(values: Any, prefix: str) -> Callable[[type[T]], type[T]]:
    """Decorates the IntEnum that shows a message's enum: `DOSSIER_STATE_DONE` with its prefix cut off.

    Raises TypeError when the two differ.
    """

    def decorate(cls: type[T]) -> type[T]:
        theirs = {name.removeprefix(prefix): number for name, number in values.items() if number}
        ours = {member.name: member.value for member in cast(type[IntEnum], cls)}
        if ours != theirs:
            raise TypeError(f"{cls.__name__} is {ours}, its message has {theirs}")
        return cast(type[T], strawberry.enum(cast(Any, cls), description=_described(cls)))

    return decorate


def bind(schema: GraphQLSchema) -> None:
    """Gives every field its plain resolver, every abstract type its members, every input its class.

    Raises TypeError for a field that its source lacks.
    """
    names = {source: _name(cls) for cls, shown in _VIEWS.items() for source in shown.sources}
    for type_ in schema.type_map.values():
        if type_.name.startswith("__"):
            continue
        if isinstance(type_, GraphQLUnionType | GraphQLInterfaceType):
            type_.resolve_type = lambda value, _info, _type: names.get(type(value))
        elif isinstance(type_, GraphQLObjectType):
            type_.is_type_of = None  # values are messages, not instances of the declared class
            origin = type_.extensions["strawberry-definition"].origin
            for name, field in type_.fields.items():
                declared: StrawberryField = field.extensions["strawberry-definition"]
                _name_in_python(field.args)
                if type_ is schema.subscription_type:
                    field.subscribe = declared.base_resolver.wrapped_func  # type: ignore[union-attr]
                    field.resolve = never_waits(_event)
                elif declared.base_resolver is not None:
                    field.resolve = declared.base_resolver.wrapped_func
                else:
                    field.resolve = _default(type_.name, name, declared.python_name, field, _view_of(origin))
        elif isinstance(type_, GraphQLInputObjectType):
            _name_in_python(type_.fields)
            made = type_.extensions["strawberry-definition"].origin
            type_.out_type = lambda values, made=made: made(**values)  # type: ignore[method-assign, misc]


def _name_in_python(inputs: Mapping[str, GraphQLArgument] | Mapping[str, GraphQLInputField]) -> None:
    """Arguments reach Python under its names; a default of None is Python's business and no default of the
    API."""
    for given in inputs.values():
        given.out_name = given.extensions["strawberry-definition"].python_name
        if given.default_value is None:
            given.default_value = Undefined


def _event(event: Any, _info: Any, **_arguments: Any) -> Any:
    return event


def _described(cls: type) -> str | None:
    return cls.__dict__.get("__doc__")


def _name(cls: type) -> str:
    return cast(str, cls.__strawberry_definition__.name)  # type: ignore[attr-defined]


def _view_of(origin: type) -> _View | None:
    return _VIEWS.get(origin)


def _default(type_name: str, name: str, attribute: str, field: GraphQLField, shown: _View | None) -> Resolver:
    if shown is None or not shown.sources:
        raise TypeError(f"{type_name}.{name} has no resolver and {type_name} shows no message")
    if name == "id" and shown.key:
        key = attrgetter(shown.key)
        return never_waits(lambda source, _info: to_global(type_name, key(source)))
    get = attrgetter(attribute)
    for source in shown.sources:
        descriptor = getattr(source, "DESCRIPTOR", None)
        if descriptor is None:
            if attribute not in {each.name for each in dataclasses.fields(source)}:
                raise TypeError(f"{type_name}.{name}: {source.__name__} has no {attribute}")
            return never_waits(lambda value, _info: get(value))
        if attribute not in descriptor.fields_by_name:
            raise TypeError(f"{type_name}.{name}: {source.__name__} has no {attribute}")
    return reader(shown.sources[0], attribute, nullable=not isinstance(field.type, GraphQLNonNull))


def reader(message_class: type, attribute: str, *, nullable: bool) -> Resolver:
    """A resolver that reads a field of a message. Where null is allowed it stands for what proto3 leaves
    empty."""
    descriptor: FieldDescriptor = message_class.DESCRIPTOR.fields_by_name[attribute]  # type: ignore[attr-defined]
    get = attrgetter(attribute)
    if descriptor.is_repeated:
        return never_waits(lambda message, _info: get(message))
    if descriptor.message_type is not None:
        return never_waits(lambda message, _info: get(message) if message.HasField(attribute) else None)
    if descriptor.enum_type is not None or (nullable and descriptor.type != FieldDescriptor.TYPE_BOOL):
        return never_waits(lambda message, _info: get(message) or None)
    return never_waits(lambda message, _info: get(message))


def fill(request: M, given: Any, *, subject: str = "", without: tuple[str, ...] = ()) -> M:
    """Copies an input into a request message and answers it; what is None stays empty.

    Global ids become keys, checked against the type that the name says (`document_id`: Document); the one
    called `subject` goes into the field `id` or `ids`. Raises InvalidInput for another id.
    """
    for field in dataclasses.fields(given):
        name, value = field.name, getattr(given, field.name)
        if value is None or name in without:
            continue
        attribute = name
        if name == subject:
            attribute = "ids" if isinstance(value, list) else "id"
        if f"{attribute}_json" in request.DESCRIPTOR.fields_by_name:
            setattr(request, f"{attribute}_json", _json(name, value))
            continue
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
            try:
                ParseDict(value, target)
            except ParseError:
                raise InvalidInput(
                    violations=[FieldViolation(_camel(name), "JSON_INVALID", "a JSON object")]
                ) from None
            target.SetInParent()
        elif descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            target.update({entry.unit: entry.count for entry in value})
        elif descriptor.message_type is not None:
            for item in value:
                fill(target.add(), item)
        elif descriptor.is_repeated:
            target.extend(value)
        else:
            setattr(request, attribute, value)
    return request


def _json(name: str, value: Any) -> str:
    """An object as JSON text, in which every number stays what it was."""
    try:
        if isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        pass
    raise InvalidInput(violations=[FieldViolation(_camel(name), "JSON_INVALID", "a JSON object")])


ID_TYPES: Mapping[str, str] = {
    "dossier_id": "Dossier",
    "document_id": "Document",
    "superseded_by_id": "Document",
    "charge_id": "Charge",
    "payment_id": "Payment",
    "applicant_id": "Account",
    "account_id": "Account",
    "to_official_id": "Account",
    "notice_ids": "Notice",
    "delegation_id": "Delegation",
}
"""Names of input fields that hold Node ids, and the type that they must be of."""


def _keys(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [from_global(item, ID_TYPES[name], _camel(name)) for item in value]
    return from_global(value, ID_TYPES[name], _camel(name))


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
