"""Requests that schemathesis makes up of our schema, sent to a running installation as several people.

Runs in an environment of its own (`.venv-fuzz`): schemathesis brings a pytest plugin and pins of its own.
Reads what `tests.fuzz` prepared from the file that the first argument names, writes what came of it to the
second.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import graphql
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.graphql import nodes

EACH = 6  # requests of one root field by one person in a row
INNARDS = ("Traceback", 'File "', ".py", "AioRpcError", "grpc_status", "mongodb://", "pymongo", "nats://")
EDGES = ("1800-01-01", "2199-12-31", "1799-12-31", "2200-01-01", "9999-12-31", "0001-01-01", "2026-02-30")
USUAL_DAYS = ("2026-01-01", "2026-11-29", "2027-06-30", "2031-12-31")
TIMES = ("T00:00:00Z", "T23:59:59.999Z", "T23:59:59+23:59", "T00:00:00-23:59", "T24:00:00Z", "T23:59:60Z")
HOSTILE = (
    "",
    " ",
    "\x00",
    "\u202eevil\u2066",
    "a\u0301" * 60,
    "ế" * 3000,
    "Nguyễn Thị Ánh",
    "http://evil.example/x",
    "{0.__class__}",
    "${jndi:x}",
    "=?utf-8?q?x?=",
    "\r\nBcc: a@b.vn",
    "\u3164",
    "𠀋👩‍👩‍👧",
    "𝟬𝟭",
    "Ð",
)


def usually(common: Any, rare: Any) -> st.SearchStrategy[Any]:
    """The first in three of four cases."""
    return st.integers(0, 3).flatmap(lambda at: common if at else rare)


def _json_node(value: Any) -> Any:
    if isinstance(value, dict):
        return nodes.Object(
            fields=[
                graphql.ObjectFieldNode(name=graphql.NameNode(value=key), value=_json_node(inner))
                for key, inner in value.items()
            ]
        )
    if isinstance(value, list):
        return nodes.List(values=[_json_node(inner) for inner in value])
    if isinstance(value, bool):
        return nodes.Boolean(value)
    if isinstance(value, int):
        return nodes.Int(value)
    if isinstance(value, float):
        return nodes.Float(value)
    return nodes.String(value) if isinstance(value, str) else nodes.Null


def scalars(form: Any) -> None:
    """What the schema's own scalars are made of: mostly what is right, and the edges."""
    days = usually(st.sampled_from(USUAL_DAYS), st.sampled_from(EDGES) | st.dates().map(str))
    times = usually(st.just(TIMES[0]), st.sampled_from(TIMES))
    texts = st.text(max_size=40) | st.sampled_from(HOSTILE)
    whole = st.sampled_from((0, 1, -1, 100, 2**31, 2**53, 2**53 + 1, -(2**63), 10**30))
    leaves = st.none() | st.booleans() | texts | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False)
    keys = st.from_regex(r"[_A-Za-z][_0-9A-Za-z]{0,12}", fullmatch=True)
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=8,
    )
    documents = usually(st.just(form), st.dictionaries(keys, values, max_size=4) | values)
    schemathesis.graphql.scalar("Date", days.map(nodes.String))
    schemathesis.graphql.scalar("DateTime", st.tuples(days, times).map("".join).map(nodes.String))
    schemathesis.graphql.scalar("Long", usually(st.integers(0, 10**6), whole).map(nodes.Int))
    schemathesis.graphql.scalar("JSON", documents.map(_json_node))
    schemathesis.graphql.scalar("String", texts.map(nodes.String))


@dataclass
class Person:
    """Who asks: signed in anew when the token has run out; a stranger has no name."""

    kind: str
    identifier: str = ""
    password: str = ""
    token: str = ""
    until: float = 0.0
    missed: int = 0  # sign-ins that were refused

    def headers(self, url: str) -> dict[str, str]:
        if not self.identifier:
            return {}
        if time.monotonic() > self.until:
            document = (
                "mutation($i: SignInInput!) { signIn(input: $i) "
                "{ ... on Session { accessToken } ... on Problem { reason } } }"
            )
            given = {"identifier": self.identifier, "password": self.password}
            answer = requests.post(
                url, json={"query": document, "variables": {"i": given}}, timeout=60
            ).json()
            self.token = ((answer.get("data") or {}).get("signIn") or {}).get("accessToken", "")
            self.until = time.monotonic() + (60 if self.token else 2)
            self.missed += not self.token
            if not self.token:
                return {}
        return {"authorization": f"Bearer {self.token}"}


class _Telling(graphql.Visitor):
    """Asks every mutation what became of it."""

    def enter_operation_definition(self, node: Any, *_: Any) -> Any:
        if node.operation is not graphql.OperationType.MUTATION:
            return None
        (field_,) = node.selection_set.selections
        asked = (*field_.selection_set.selections, *_TOLD.selection_set.selections)
        told = graphql.FieldNode(
            name=field_.name,
            arguments=field_.arguments,
            selection_set=graphql.SelectionSetNode(selections=asked),
        )
        return graphql.OperationDefinitionNode(
            operation=node.operation, selection_set=graphql.SelectionSetNode(selections=(told,))
        )


_TOLD: Any = graphql.parse("{ __typename ... on Problem { problem: reason } }").definitions[0]


@dataclass
class Met:
    """What came of the requests to one root field."""

    sent: Counter[str] = field(default_factory=Counter)  # by kind of person
    reached: Counter[str] = field(default_factory=Counter)
    done: int = 0  # neither a problem nor an error
    told: Counter[str] = field(default_factory=Counter)  # reasons and codes


@dataclass
class Fuzz:
    """Everybody, what they know, and what they met."""

    url: str
    people: dict[str, list[Person]]
    known: dict[str, list[Any]]  # good values by the name of an argument or an input's field
    ids: dict[str, list[str]]  # by type
    met: dict[str, Met] = field(default_factory=lambda: defaultdict(Met))
    faults: list[dict[str, Any]] = field(default_factory=list)
    turn: int = 0

    def improved(self, document: str, draw: Any) -> str:
        """The document with some of its values put right, so that much of what is sent gets past the door."""

        def good(name: str, old: graphql.ValueNode) -> Any:
            if isinstance(old, graphql.VariableNode) or draw(st.integers(0, 9)) < 2:
                return None
            if name == "requestId":
                return graphql.StringValueNode(value=str(uuid.uuid4()))
            if name in ("etag", "after"):
                return graphql.NullValueNode()
            values = [self.ids[each] for each in TYPES.get(name, ()) if self.ids.get(each)]
            pool = [value for each in values for value in each] or self.known.get(name, [])
            if not pool:
                return None
            value = draw(st.sampled_from(pool))
            if isinstance(old, graphql.ListValueNode) and not isinstance(value, list):
                value = [value]
            return _json_node(value)

        class Improve(graphql.Visitor):
            def enter_argument(self, node: Any, *_: Any) -> Any:
                found = good(node.name.value, node.value)
                return None if found is None else graphql.ArgumentNode(name=node.name, value=found)

            def enter_object_field(self, node: Any, *_: Any) -> Any:
                found = good(node.name.value, node.value)
                return None if found is None else graphql.ObjectFieldNode(name=node.name, value=found)

        better = graphql.visit(graphql.parse(document), Improve())
        return graphql.print_ast(graphql.visit(better, _Telling()))

    def ask(self, label: str, kind: str, document: str) -> None:
        """Sends it as one of the people of that kind and notes what came of it."""
        self.turn += 1
        people = self.people[kind]
        who = people[self.turn % len(people)]
        met = self.met[label]
        met.sent[kind] += 1
        try:
            answer = requests.post(
                self.url, json={"query": document}, headers=who.headers(self.url), timeout=60
            )
        except requests.RequestException as error:
            self.fault(label, kind, document, 0, f"no answer: {type(error).__name__}")
            return
        text = answer.text
        unmasked = [word for word in INNARDS if word in text and word not in document]
        if answer.status_code >= 500 or unmasked:
            self.fault(label, kind, document, answer.status_code, text[:600])
        try:
            body = answer.json()
        except ValueError:
            self.fault(label, kind, document, answer.status_code, text[:600])
            return
        errors = body.get("errors") or []
        for each in errors:
            extensions = each.get("extensions") or {}
            met.told[extensions.get("reason") or extensions.get("code") or "?"] += 1
            if extensions.get("code") in ("INTERNAL", None):
                self.fault(
                    label, kind, document, answer.status_code, json.dumps(each, ensure_ascii=False)[:600]
                )
            if extensions.get("reason") == "TOKEN_INVALID" or extensions.get("code") == "UNAUTHENTICATED":
                who.until = 0.0
        if "data" in body:
            met.reached[kind] += 1
            data = body["data"] or {}
            for member in data.values():
                problem = isinstance(member, dict) and member.get("problem")
                if problem:
                    met.told[str(problem)] += 1
            met.done += not errors and not any(
                isinstance(member, dict) and member.get("problem") for member in data.values()
            )
            self.learn(text)

    def learn(self, text: str) -> None:
        """Keeps the ids that an answer shows."""
        for piece in set(re.findall(r'"([A-Za-z0-9+/]{16,}={0,2})"', text)):
            try:
                kind, colon, _ = base64.b64decode(piece, validate=True).decode().partition(":")
            except ValueError:
                continue
            if colon and kind in KINDS and piece not in self.ids.setdefault(kind, []):
                self.ids[kind] = [*self.ids[kind], piece][-60:]

    def fault(self, label: str, kind: str, document: str, status: int, text: str) -> None:
        self.faults.append(
            {"field": label, "who": kind, "status": status, "text": text, "document": document}
        )


KINDS = ("Account", "Dossier", "Document", "Charge", "Payment", "Notice", "Delegation", "Upload", "Receipt")
TYPES: dict[str, tuple[str, ...]] = {
    "id": KINDS,
    **{f"{kind[0].lower()}{kind[1:]}Id": (kind,) for kind in KINDS},
    "supersededById": ("Document",),
    "accountId": ("Spare",),  # may be locked without anybody here losing their desk
    "applicantId": ("Account",),
    "toOfficialId": ("Account",),
    "noticeIds": ("Notice",),
}


def subscribed(fuzz: Fuzz, name: str, kind: str, document: str) -> None:
    """Asks for a subscription as an event stream and reads how it begins."""
    label = f"Subscription.{name}"
    met = fuzz.met[label]
    met.sent[kind] += 1
    who = fuzz.people[kind][0]
    headers = {"accept": "text/event-stream", **who.headers(fuzz.url)}
    try:
        with requests.post(
            fuzz.url, json={"query": document}, headers=headers, stream=True, timeout=(10, 0.5)
        ) as answer:
            if answer.status_code >= 500:
                fuzz.fault(label, kind, document, answer.status_code, answer.text[:600])
            elif answer.status_code == 200:
                met.reached[kind] += 1
                next(answer.iter_content(200), b"")
                met.done += 1
    except requests.RequestException:
        pass  # nothing has happened yet: the stream is open


def ask_often(fuzz: Fuzz, operation: Any, kind: str, seed_: int) -> None:
    """Asks some requests to one root field as one kind of person."""

    @seed(seed_)
    @settings(
        max_examples=EACH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), data=st.data())
    def every(case: Any, data: Any) -> None:
        as_made = data.draw(st.integers(0, 9)) == 0
        document = case.body if as_made else fuzz.improved(case.body, data.draw)
        fuzz.ask(operation.label, kind, document)

    every()


def rounds(minutes: float) -> Iterator[int]:
    end = time.monotonic() + minutes * 60
    at = 0
    while time.monotonic() < end:
        yield at
        at += 1


def main() -> None:
    prepared = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    scalars(prepared["form"])
    people = {
        kind: [Person(kind, *each) for each in those] or [Person(kind)]
        for kind, those in prepared["people"].items()
    }
    fuzz = Fuzz(prepared["url"], people, prepared["known"], prepared["ids"])
    schema = schemathesis.graphql.from_path(prepared["schema"])
    operations = [result.ok() for result in schema.get_all_operations()]
    end = time.monotonic() + prepared["minutes"] * 60
    for number in rounds(prepared["minutes"]):
        for operation in operations:
            for kind in people:
                if time.monotonic() > end and number:
                    break

                ask_often(fuzz, operation, kind, prepared["seed"] + number)
        for kind in people:
            subscribed(fuzz, "notices", kind, "subscription { notices { id } }")
            for what in ("Dossier", "Document"):
                name = f"{what.lower()}Changed"
                for id in fuzz.ids.get(what, [])[-1:]:
                    subscribed(fuzz, name, kind, f'subscription {{ {name}(id: "{id}") {{ id }} }}')
    report = {
        "met": {
            label: {"sent": met.sent, "reached": met.reached, "done": met.done, "told": met.told}
            for label, met in fuzz.met.items()
        },
        "faults": fuzz.faults[:200],
        "fault_count": len(fuzz.faults),
        "missed": {
            each.identifier: each.missed for those in people.values() for each in those if each.missed
        },
    }
    Path(sys.argv[2]).write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")


main()
