"""What all parts of the schema share: scalars, Node, connections, problems, and how a mutation is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from gateway import errors
from gateway.binding import Part, fill
from gateway.context import Context
from gateway.execution import Info, never_waits
from gateway.ids import split_global
from gateway.relay import Edge, Page
from kit.errors import DomainError, NotFound

PROBLEMS = " | ".join(sorted(cls.__name__ for cls in set(errors.PROBLEMS.values())))

part = Part('''
"""An instant, such as `2026-11-23T05:00:00.000Z`."""
scalar DateTime
"""An ISO date in Vietnam, such as `2026-11-23`."""
scalar Date
"""Any JSON value."""
scalar JSON
"""An integer of at most 53 bits."""
scalar Long

type Query {
  """An object by its id; null when there is none or the caller may not see it."""
  node(id: ID!): Node
}
type Mutation
type Subscription

interface Node { id: ID! }

type PageInfo {
  hasNextPage: Boolean!
  hasPreviousPage: Boolean!
  startCursor: String
  endCursor: String
}

"""Money in whole units of its currency: 8000 is 8.000 đồng."""
type Money { amount: Long! currency: String! }

"""An expected failure. `reason` is a stable code; `message` is for people, in the caller's language."""
interface Problem { reason: String! message: String! }
"""The input is wrong, whatever the state."""
type ValidationProblem implements Problem { reason: String! message: String! violations: [Violation!]! }
"""One field of the input that is wrong."""
type Violation { field: String! reason: String! message: String! }
"""Somebody else was first: a stale etag, a name that is taken, a request id used for something else."""
type Conflict implements Problem { reason: String! message: String! }
"""The caller may not do this."""
type Forbidden implements Problem { reason: String! message: String! }
"""The caller must sign in."""
type Unauthenticated implements Problem { reason: String! message: String! }
"""It does not exist, or the caller may not know of it."""
type NotFound implements Problem { reason: String! message: String! }
"""Right request, wrong state."""
type WrongState implements Problem { reason: String! message: String! }
"""Too many attempts; `retryAfter` is in seconds."""
type RateLimited implements Problem { reason: String! message: String! retryAfter: Int }
''')

for _problem in set(errors.PROBLEMS.values()):
    part.type(_problem.__name__, _problem)
part.type("Violation", errors.Violation)


@part.resolve("Query.node")
async def node(_root: None, info: Info, id: str) -> Any:
    parts = split_global(id)
    if parts is None:
        return None
    context: Context = info.context
    loaders = {
        "Account": lambda: context.accounts,
        "Agency": lambda: context.agencies,
        "Procedure": lambda: context.procedures,
        "Dossier": lambda: context.dossiers,
        "Document": lambda: context.documents,
        "Charge": lambda: context.charges,
        "Receipt": lambda: context.receipts,
        "Notice": lambda: context.notices,
        "Upload": lambda: context.uploads,
    }
    if parts[0] not in loaders:
        return None
    loaded: Any = loaders[parts[0]]().load(parts[1])  # type: ignore[no-untyped-call]
    return await loaded if hasattr(loaded, "__await__") else loaded


@dataclass(frozen=True)
class Money:
    """An amount in whole units of its currency, for what has no message with both."""

    amount: int
    currency: str = "VND"


part.resolve("Money.amount")(never_waits(lambda source, _info: source.amount))
part.resolve("Money.currency")(never_waits(lambda source, _info: source.currency or "VND"))
part.resolve("PageInfo.hasNextPage")(never_waits(lambda page, _info: page.next_token != ""))
part.resolve("PageInfo.hasPreviousPage")(never_waits(lambda page, _info: page.start != "" or page.offset > 0))
part.resolve("PageInfo.startCursor")(never_waits(lambda page, _info: page.cursor(0) if page.items else None))
part.resolve("PageInfo.endCursor")(
    never_waits(lambda page, _info: page.cursor(len(page.items) - 1) if page.items else None)
)


def connection(to: Part, type_name: str, *, counted: bool = False) -> None:
    """Adds the connection of a type: `DossierConnection` and `DossierEdge` for Dossier."""
    total = '\n  """How many there are in all."""\n  totalCount: Int!' if counted else ""
    to.sdl += f"""
type {type_name}Connection {{
  edges: [{type_name}Edge!]!
  nodes: [{type_name}!]!
  pageInfo: PageInfo!{total}
}}
type {type_name}Edge {{ cursor: String! node: {type_name}! }}
"""
    name = f"{type_name}Connection"
    to.resolve(f"{name}.edges")(never_waits(_edges))
    to.resolve(f"{name}.nodes")(never_waits(lambda page, _info: page.items))
    to.resolve(f"{name}.pageInfo")(never_waits(lambda page, _info: page))
    if counted:
        to.resolve(f"{name}.totalCount")(never_waits(lambda page, _info: page.total))
    to.resolve(f"{type_name}Edge.cursor")(never_waits(lambda edge, _info: edge.cursor))
    to.resolve(f"{type_name}Edge.node")(never_waits(lambda edge, _info: edge.page.items[edge.index]))


def _edges(page: Page, _info: Info) -> list[Edge]:
    return [Edge(page, index) for index in range(len(page.items))]


Act = Callable[[Context, Mapping[str, Any]], Awaitable[Any]]


def mutation(to: Part, name: str, answers: str, description: str) -> Callable[[Act], Act]:
    """Decorates `async (context, input) -> object`: adds the field, its result union, and turns failures to problems.

    The input type (`SignInInput` for signIn) is written by hand.
    """
    title = name[0].upper() + name[1:]
    to.sdl += f'''
extend type Mutation {{
  """{description}"""
  {name}(input: {title}Input!): {title}Result!
}}
union {title}Result = {answers} | {PROBLEMS}
'''

    def bind(act: Act) -> Act:
        async def resolver(_root: None, info: Info, input: Mapping[str, Any]) -> Any:
            context: Context = info.context
            try:
                return await act(context, input)
            except DomainError as error:
                known = errors.problem(error, await context.locale())
                if known is None:
                    raise
                return known

        to.resolve(f"Mutation.{name}")(resolver)
        return act

    return bind


def rpc(
    to: Part,
    name: str,
    answers: str,
    description: str,
    *,
    method: Callable[[Context], Any],
    request: type[Message],
    answer: Callable[[Any], Any],
    subject: str = "",
) -> None:
    """Adds a mutation that is one RPC: the input fills the request, `answer` picks the object from the reply.

    `subject` names the input field that is the request's `id`.
    """

    async def act(context: Context, input: Mapping[str, Any]) -> Any:
        filled = fill(request(), input, subject=subject)
        return answer(await context.call(method(context), filled))

    mutation(to, name, answers, description)(act)


async def absent_is_null(call: Awaitable[Any]) -> Any:
    """What the call answers, or None for NotFound: what a nullable query answers."""
    try:
        return await call
    except NotFound:
        return None
