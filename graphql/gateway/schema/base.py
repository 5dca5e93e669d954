"""What all parts of the schema share: Node, connections, problems, fields that load, and how a mutation is
made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union, cast

import strawberry
from google.protobuf.message import Message

from gateway import errors
from gateway.binding import fill, interface, view
from gateway.execution import never_waits
from gateway.ids import split_global, to_global
from gateway.relay import Edge as PageEdge
from gateway.relay import Page
from gateway.scalars import Long
from kit.errors import DomainError, NotFound
from kit.errors import Forbidden as NotYours
from motcua.catalog.v1 import catalog_pb2
from motcua.payment.v1 import payment_pb2

if TYPE_CHECKING:
    from gateway.context import Context

T = TypeVar("T")
Info = strawberry.Info[Any, Any]


@interface
class Node:
    """Anything with an id of its own."""

    id: strawberry.ID


def plain(read: Callable[[Any], Any], *, description: str | None = None) -> Any:
    """A field computed from its source alone."""

    def resolve(self: Any, info: Info) -> Any:
        return read(self)

    return strawberry.field(resolver=never_waits(resolve), description=description)


def one(loader: str, key: str | Callable[[Any], str], *, description: str | None = None) -> Any:
    """A field that loads one object by a key which the source has, or makes; null when the key is empty."""

    def resolve(self: Any, info: Info) -> Any:
        found = key(self) if callable(key) else getattr(self, key)
        return getattr(info.context, loader).load(found)

    return strawberry.field(resolver=resolve, description=description)


def many(loader: str, keys: str, *, description: str | None = None) -> Any:
    """A field that loads the objects whose keys the source has, without those missing."""

    def resolve(self: Any, info: Info) -> Any:
        return getattr(info.context, loader).many(getattr(self, keys))

    return strawberry.field(resolver=resolve, description=description)


def resolver(type_: Any, description: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Decorates the resolver of a field of that type; what it answers is a message, not an instance."""
    return cast(Callable[..., Any], strawberry.field(graphql_type=type_, description=description))


def subscription(type_: Any, description: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorates the source of a subscription of that type."""
    return cast(Callable[..., Any], strawberry.subscription(graphql_type=type_, description=description))


@view()
class PageInfo:
    """Where a page is in its list."""

    has_next_page: bool = plain(lambda page: page.next_token != "")
    has_previous_page: bool = plain(lambda page: page.start != "" or page.offset > 0)
    start_cursor: str | None = plain(lambda page: page.cursor(0) if page.items else None)
    end_cursor: str | None = plain(lambda page: page.cursor(len(page.items) - 1) if page.items else None)


@view()
class Edge(Generic[T]):
    """An item in its list."""

    cursor: str = plain(lambda edge: edge.cursor)
    node: T = plain(lambda edge: edge.node)


@view()
class Connection(Generic[T]):
    """A page of a list (Relay connections)."""

    edges: list[Edge[T]] = plain(lambda page: edges(page))
    nodes: list[T] = plain(lambda page: page.items)
    page_info: PageInfo = plain(lambda page: page)


def edges(page: Page) -> list[PageEdge]:
    """The items of a page with their cursors."""
    return [PageEdge(page, index) for index in range(len(page.items))]


@dataclass(frozen=True)
class Amount:
    """An amount in whole units of its currency, for what has no message with both."""

    amount: int
    currency: str = "VND"


@view(Amount, payment_pb2.Charge, payment_pb2.Receipt, catalog_pb2.FeeLine)
class Money:
    """Money in whole units of its currency: 8000 is 8.000 đồng."""

    amount: Long
    currency: str = plain(lambda source: source.currency or "VND")


@interface
class Problem:
    """An expected failure. `reason` is a stable code; `message` is for people, in the caller's language."""

    reason: str
    message: str


@view(errors.Violation)
class Violation:
    """One field of the input that is wrong."""

    field: str
    reason: str
    message: str


@view(errors.ValidationProblem)
class ValidationProblem(Problem):
    """The input is wrong, whatever the state."""

    violations: list[Violation]


@view(errors.Conflict)
class Conflict(Problem):
    """Somebody else was first: a stale etag, a name that is taken, a request id used for something else."""

    accounts: list[strawberry.ID] = plain(
        lambda source: [to_global("Account", id) for id in source.accounts],
        description="Accounts that are in the way, where the caller is to decide about them.",
    )


@view(errors.Forbidden)
class Forbidden(Problem):
    """The caller may not do this."""


@view(errors.Unauthenticated)
class Unauthenticated(Problem):
    """The caller must sign in."""


@view(errors.NotFound, name="NotFound")
class NotFoundProblem(Problem):
    """It does not exist, or the caller may not know of it."""


@view(errors.WrongState)
class WrongState(Problem):
    """Right request, wrong state."""


@view(errors.RateLimited)
class RateLimited(Problem):
    """Too many attempts; `retryAfter` is in seconds."""

    retry_after: int | None


PROBLEMS = (
    Conflict,
    Forbidden,
    NotFoundProblem,
    RateLimited,
    Unauthenticated,
    ValidationProblem,
    WrongState,
)

Act = Callable[..., Awaitable[Any]]


def mutation(answers: type | tuple[type, ...], description: str) -> Callable[[Act], Any]:
    """Decorates `async def sign_in(self, info, input)`: failures become problems, and the answer is the
    union of `answers` (one type, or several) and them, named after the mutation (`SignInResult`)."""

    def decorate(act: Act) -> Any:
        name = "".join(word.capitalize() for word in act.__name__.split("_")) + "Result"
        members: Any = Union[(*(answers if isinstance(answers, tuple) else (answers,)), *PROBLEMS)]
        union = Annotated[members, strawberry.union(name)]

        @wraps(act)
        async def resolve(self: Any, info: Info, input: Any) -> Any:
            context: Context = info.context
            try:
                return await act(self, info, input)
            except DomainError as error:
                known = errors.problem(error, await context.locale())
                if known is None:
                    raise
                return known

        return strawberry.mutation(resolver=resolve, graphql_type=union, description=description)

    return decorate


def rpc(
    service: str,
    request: type[Message],
    input_type: type,
    answers: type,
    description: str,
    *,
    answer: str = "",
    subject: str = "",
) -> Any:
    """A mutation that is the RPC of its request's name: the input fills the request.

    `answer` names the field of the reply that is the object; empty: the reply itself. `subject` names the
    input field that is the request's `id`.
    """
    method = request.DESCRIPTOR.name.removesuffix("Request")

    async def act(self: Any, info: Info, input: Any) -> Any:
        context: Context = info.context
        filled = fill(request(), input, subject=subject)
        reply = await context.call(getattr(getattr(context.services, service), method), filled)
        return getattr(reply, answer) if answer else reply

    act.__name__ = "_".join(_words(method)).lower()
    act.__annotations__["input"] = input_type
    return mutation(answers, description)(act)


def _words(name: str) -> Sequence[str]:
    starts = [index for index, letter in enumerate(name) if letter.isupper()]
    return [name[start:end] for start, end in zip(starts, [*starts[1:], len(name)], strict=True)]


async def absent_is_null(call: Awaitable[Any]) -> Any:
    """What the call answers, or None for NotFound: what a nullable query answers."""
    try:
        return await call
    except NotFound:
        return None


_LOADERS = {
    "Account": "accounts",
    "Agency": "agencies",
    "Procedure": "procedures",
    "Dossier": "dossiers",
    "Document": "documents",
    "Upload": "uploads",
    "Charge": "charges",
    "Receipt": "receipts",
    "Notice": "notices",
}


@strawberry.type
class NodeQuery:
    """Objects by their ids."""

    @resolver(
        Node | None,
        description="An object by its id; null when there is none or the caller may not see it.",
    )
    async def node(self, info: Info, id: strawberry.ID) -> Any:
        parts = split_global(id)
        if parts is None or parts[0] not in _LOADERS:
            return None
        found = getattr(info.context, _LOADERS[parts[0]]).load(parts[1])
        return await cast(Awaitable[Any], found) if hasattr(found, "__await__") else found


def own(context: Context, account: Any) -> None:
    """Raises Forbidden unless the account is the caller's: for lists that services answer for the caller
    only."""
    if account.id != context.caller.subject:
        raise NotYours("NOT_YOUR_ACCOUNT", "only the owner may list this")


def other(context: Context, account: Any) -> str:
    """The account's id, or nothing when it is the caller's own: what list requests want."""
    return "" if account.id == context.caller.subject else str(account.id)
