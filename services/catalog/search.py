"""Search over the procedures in force, in memory. Pure.

The stores that we run on have no text search in common, and a province has a few thousand procedures: so the
service keeps a small index of its own, rebuilt from the store at start and kept fresh afterwards. The price:
each replica holds it, and another replica's change is seen some seconds late.

Words are folded syllables (`Đăng ký` is `dang`, `ky`). A procedure matches when every word of the query is in
its name, field, results, audience or components; the last word may be unfinished. If nothing matches all,
those that match most of the weight do. The order: exact code, then all words in the name (as one phrase, at
its beginning, as the whole of it: better), then rarer words and shorter names, then matches outside the name.
"""

from __future__ import annotations

import base64
import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from catalog.domain import Content, Level, Procedure, Source
from kit.errors import InvalidInput
from kit.text import fold

_WORD = re.compile(r"[0-9a-z]+(?:\.[0-9]+)*")
_OPENING = re.compile(r"^(?:thu tuc|viec|cac|lien thong)\s+")
_MAX_WORDS = 24
_SHARE = 0.6  # of the query's weight that a partial match must have


@dataclass(frozen=True)
class Entry:
    """What the index knows of the version in force of a procedure."""

    code: str
    version: int
    name: str
    field: str
    levels: tuple[Level, ...]
    audience: tuple[str, ...]
    curated: bool
    folded_name: str
    folded_field: str
    folded_audience: str
    name_words: frozenset[str]
    other_words: frozenset[str]


@dataclass(frozen=True)
class Hits:
    """One page, the token of the next one (empty: none) and the number of all matches."""

    entries: tuple[Entry, ...]
    next_token: str
    total: int


class Index:
    """The procedures in force on a date."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revisions: dict[str, int] = {}
        self._in_name: dict[str, set[str]] = {}
        self._elsewhere: dict[str, set[str]] = {}
        self._vocabulary: list[str] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, code: str) -> Entry | None:
        """The entry of a code."""
        return self._entries.get(code)

    def revision(self, code: str) -> int:
        """The revision of a procedure that was put last, 0 for none."""
        return self._revisions.get(code, 0)

    def put(self, procedure: Procedure, on: date) -> None:
        """Makes the index say what the procedure says on that date; out of force, it is forgotten. A revision
        older than the one known, read before it by someone slower, changes nothing."""
        if procedure.revision < self.revision(procedure.id):
            return
        self._revisions[procedure.id] = procedure.revision
        entry = entry_of(procedure, on)
        old = self._entries.get(procedure.id)
        if entry == old:
            return
        if old is not None:
            _drop(self._in_name, old.name_words, old.code)
            _drop(self._elsewhere, old.other_words, old.code)
            del self._entries[old.code]
        if entry is not None:
            for word in entry.name_words:
                self._in_name.setdefault(word, set()).add(entry.code)
            for word in entry.other_words:
                self._elsewhere.setdefault(word, set()).add(entry.code)
            self._entries[entry.code] = entry
        self._vocabulary = None

    def fields(self) -> list[tuple[str, int]]:
        """Fields and how many procedures each has, by name."""
        counts = Counter(entry.field for entry in self._entries.values())
        return sorted(counts.items(), key=lambda pair: fold(pair[0]))

    def search(
        self,
        query: str,
        *,
        field: str = "",
        level: Level | None = None,
        audience: str = "",
        size: int = 20,
        token: str = "",
    ) -> Hits:
        """One page of the matches, best first. `field` must be equal and `audience` contained, both folded.

        A page begins after the last entry of the one before it (its score and code), so it neither repeats
        nor skips what did not change in between. Raises InvalidInput for a token not made here.
        """
        keep = _filter(fold(field), level, fold(audience))
        scored = [
            (-score, code) for code, score in self._scores(fold(query)).items() if keep(self._entries[code])
        ]
        scored.sort()
        begin = bisect_left(scored, _from_token(token)) if token else 0
        page = scored[begin : begin + size]
        more = begin + size < len(scored)
        return Hits(
            tuple(self._entries[code] for _, code in page),
            _to_token(page[-1]) if more and page else "",
            len(scored),
        )

    def _scores(self, query: str) -> dict[str, int]:
        words = list(dict.fromkeys(_WORD.findall(query)))[:_MAX_WORDS]
        if not words:
            return {code: int(entry.curated) for code, entry in self._entries.items()}
        phrase = " ".join(_WORD.findall(query))
        matches = [self._matching(word, last=word == words[-1]) for word in words]
        weights = [self._rarity(names | others) for names, others in matches]
        whole = sum(weights)
        in_name: Counter[str] = Counter()
        anywhere: Counter[str] = Counter()
        for (names, others), weight in zip(matches, weights, strict=True):
            for code in names:
                in_name[code] += weight
            for code in names | others:
                anywhere[code] += weight
        known = sum(w for (names, others), w in zip(matches, weights, strict=True) if names or others)
        least = whole if whole in anywhere.values() else math.ceil(known * _SHARE)
        scores = {
            code: self._score(self._entries[code], phrase, in_name[code], found, whole)
            for code, found in anywhere.items()
            if found >= least and whole
        }
        for code, entry in self._entries.items():
            if entry.code.lower() == phrase:
                scores[code] = 10_000_000
            elif len(phrase) >= 3 and "." in phrase and entry.code.lower().startswith(phrase):
                scores[code] = 5_000_000
        return scores

    def _score(self, entry: Entry, phrase: str, in_name: int, anywhere: int, whole: int) -> int:
        bare = _OPENING.sub("", entry.folded_name)
        score = 100_000 * anywhere // whole + 300_000 * in_name // whole
        if in_name == whole:
            score += 1_000_000
            if f" {phrase}" in f" {entry.folded_name}":
                score += 400_000
            if f" {phrase} " in f" {entry.folded_name} ":
                score += 50_000
            if bare.startswith(_OPENING.sub("", phrase)):
                score += 100_000
            if phrase in (bare, entry.folded_name):
                score += 400_000
            score += 200_000 * len(phrase) // max(len(phrase), len(bare))
        return score + 20_000 * entry.curated

    def _matching(self, word: str, *, last: bool) -> tuple[set[str], set[str]]:
        names, others = self._in_name.get(word, set()), self._elsewhere.get(word, set())
        if last:
            longer = self._beginning_with(word)
            names = names.union(*(self._in_name.get(each, set()) for each in longer))
            others = others.union(*(self._elsewhere.get(each, set()) for each in longer))
        return names, others

    def _beginning_with(self, prefix: str) -> Sequence[str]:
        if self._vocabulary is None:
            self._vocabulary = sorted(self._in_name.keys() | self._elsewhere.keys())
        begin = bisect_left(self._vocabulary, prefix)
        end = bisect_left(self._vocabulary, prefix + "\x7f")
        return self._vocabulary[begin:end]

    def _rarity(self, codes: set[str]) -> int:
        """A whole number, so that scores compare exactly from page to page."""
        return round(1000 * math.log(1 + len(self._entries) / (1 + len(codes))))


def entry_of(procedure: Procedure, on: date) -> Entry | None:
    """The entry of the version in force on the date, None when there is none."""
    version = procedure.in_force(on)
    if version is None:
        return None
    content = version.content
    name = _words(content.name)
    others = {word for text in _texts(content) for word in _words(text)}
    return Entry(
        code=procedure.id,
        version=version.number,
        name=content.name,
        field=content.field,
        levels=content.levels,
        audience=content.audience,
        curated=version.source is Source.CURATED,
        folded_name=" ".join(name),
        folded_field=fold(content.field),
        folded_audience=fold(" | ".join(content.audience)),
        name_words=frozenset(name),
        other_words=frozenset(others.difference(name)),
    )


def _texts(content: Content) -> Iterator[str]:
    yield content.field
    yield from content.audience
    yield from (result.name for result in content.results)
    yield from (component.name for case in content.cases for component in case.components)


def _words(text: str) -> list[str]:
    return [word for piece in text.split() for word in _folded_piece(piece)]


@lru_cache(maxsize=65_536)
def _folded_piece(piece: str) -> tuple[str, ...]:
    """The words of a piece without spaces. Texts repeat few syllables many times, and folding is slow."""
    return tuple(_WORD.findall(fold(piece)))


def _filter(field: str, level: Level | None, audience: str) -> Callable[[Entry], bool]:
    def keep(entry: Entry) -> bool:
        return (
            (not field or entry.folded_field == field)
            and (level is None or level in entry.levels)
            and (not audience or audience in entry.folded_audience)
        )

    return keep


def _drop(postings: dict[str, set[str]], words: Iterable[str], code: str) -> None:
    for word in words:
        postings[word].discard(code)
        if not postings[word]:
            del postings[word]


def _to_token(last: tuple[int, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(last).encode()).decode().rstrip("=")


def _from_token(token: str) -> tuple[int, str]:
    """Where the next page begins: just after the entry that the token names."""
    try:
        score, code = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if isinstance(score, bool) or not isinstance(score, int) or not isinstance(code, str):
            raise ValueError(token)
    except (ValueError, TypeError):
        raise InvalidInput("INVALID_PAGE_TOKEN", "no page of this list gave this token") from None
    return score, code + "\x00"
