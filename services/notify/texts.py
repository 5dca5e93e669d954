"""Writes notices: a kind's template in a language, filled with parameters."""

from __future__ import annotations

import re
import string
import tomllib
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from kit.clock import VIETNAM, from_text
from kit.text import nfc, typed
from notify.domain.kinds import KINDS

LOCALES: Final = ("vi", "en")
_LONGEST: Final = 2000  # letters of one parameter; the rest can be read on the dossier's page
_LONGEST_IN_TITLE: Final = 120


@dataclass(frozen=True)
class Template:
    """The title and the lines of a notice before its parameters are filled in."""

    title: str
    lines: tuple[str, ...]

    def params(self) -> frozenset[str]:
        """Every parameter that the title or a line names."""
        return frozenset().union(*(_names(part) for part in (self.title, *self.lines)))


@cache
def templates(locale: str) -> Mapping[str, Template]:
    """All templates of a language by kind. Raises ValueError when a kind lacks one or names other parameters
    than its own."""
    found = {
        kind: Template(nfc(text["title"]), tuple(nfc(text["body"]).strip().splitlines()))
        for kind, text in _read(locale).items()
        if kind != "causes"
    }
    if found.keys() != KINDS.keys():
        raise ValueError(f"{locale}.toml: kinds differ: {sorted(found.keys() ^ KINDS.keys())}")
    for kind, template in found.items():
        if template.params() != KINDS[kind].params:
            wrong = sorted(template.params() ^ KINDS[kind].params)
            raise ValueError(f"{locale}.toml: {kind}: parameters differ: {wrong}")
    return found


def cause(code: str, locale: str) -> str:
    """In words why another service did something; nothing for a code that no language has words for."""
    return nfc(_read(locale)["causes"].get(code, ""))


@cache
def _read(locale: str) -> dict[str, dict[str, str]]:
    return tomllib.loads(files("notify").joinpath("templates", f"{locale}.toml").read_text("utf-8"))


def write(kind: str, locale: str, params: Mapping[str, str]) -> tuple[str, str]:
    """Title and body of a notice in a language.

    Instants (`due`, `new_due`, `at`, `until`) are given as stored text, `amount` in đồng, `cause` as a code;
    they are written as the language does; what people typed is shown as data (`shown`). A body line all of
    whose parameters are empty is left out. Raises KeyError for a missing parameter.
    """
    template = templates(locale)[kind]
    values = {name: _value(name, value, locale) for name, value in params.items()}
    lines = [
        line.format_map(values)
        for line in template.lines
        if not (names := _names(line)) or any(values[name] for name in names)
    ]
    short = {name: _cut(value, _LONGEST_IN_TITLE) for name, value in values.items()}
    return " ".join(template.title.format_map(short).split()), "\n".join(lines)


def instant(text: str, locale: str) -> str:
    """A stored instant as people in Vietnam read it: `16:30 ngày 25/11/2026`, `16:30 on 25 November 2026`."""
    local = from_text(text).astimezone(VIETNAM)
    if locale == "vi":
        return f"{local:%H:%M} ngày {local:%d/%m/%Y}"
    return f"{local:%H:%M} on {local.day} {_MONTHS[local.month - 1]} {local.year}"


def amount(text: str, locale: str) -> str:
    """An amount of đồng as people read it: `8.000 đ`, `VND 8,000`."""
    grouped = f"{int(text):,}"
    return f"{grouped.replace(',', '.')} đ" if locale == "vi" else f"VND {grouped}"


# Not strftime's %B: that follows the machine's locale.
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_WRITTEN: Final[Mapping[str, Callable[[str, str], str]]] = {
    "due": instant,
    "new_due": instant,
    "at": instant,
    "until": instant,
    "amount": amount,
    "cause": cause,
}


def shown(text: str) -> str:
    """What somebody typed, as data in a text of ours: one line without anything that is not seen, that no
    reader of mail turns into a link, and that cannot end the quotation marks around it."""
    lines = (" ".join(_bare(line).split()) for line in typed(text[: 2 * _LONGEST]).split("\n"))
    told = [line for line in lines if line]
    ended = [line if line[-1] in ".,;:!?" else f"{line};" for line in told[:-1]]
    return _cut(_unlinked(" ".join([*ended, *told[-1:]]).translate(_MARKS)), _LONGEST)


# A quotation mark of people's ends none of ours.
_MARKS: Final = dict.fromkeys(map(ord, '"“”„‟«»〝〞〟＂'), "'")
# What programs make links of: a scheme, an address, a name with a dot before ASCII letters. A place or a
# title that is written short (`TP.HCM`, `Q.Ba Đình`, `ThS.Lan`) is none.
_SCHEME: Final = re.compile(
    r"(?<=[A-Za-z0-9+-])[:：](?=[/／\\])|(?i:\b(mailto|tel|sms|javascript|data|zalo)):(?=\S)"
)
_SHORT: Final = r"(?<!\bTP)(?<!\b[QPHX])(?<!\bTX)(?<!\bTT)(?<!\bKP)(?<!\bThS)(?<!\b[TGBKL]S)(?<!\bPGS)"
_DOT: Final = re.compile(
    rf"(?<=[^\W_])(?:[.。．｡](?=[a-z][A-Za-z0-9-]*[A-Za-z0-9])|{_SHORT}[.。．｡](?=[A-Z][A-Za-z0-9-]*[A-Za-z0-9]))"
)
_AT: Final = re.compile(r"(?<=\S)[@＠](?=\S)")


def _unlinked(text: str) -> str:
    text = _SCHEME.sub(lambda found: f"{found[1] or ''}[:]", text)
    return _AT.sub("[@]", _DOT.sub("[.]", text))


def _bare(line: str) -> str:
    """The line without heaps of marks, and without what Unicode has not assigned or leaves to everybody."""
    marks, kept = 0, []
    for letter in line:
        category = unicodedata.category(letter)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category not in ("Co", "Cn") and marks <= _MOST_MARKS:
            kept.append(letter)
    return "".join(kept)


_MOST_MARKS: Final = 4  # on one letter; a Vietnamese one has two


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _value(name: str, value: str, locale: str) -> str:
    if not value:
        return ""
    return _WRITTEN[name](value, locale) if name in _WRITTEN else shown(value)


def _names(text: str) -> frozenset[str]:
    """The parameters of a template. Raises ValueError for anything but plain `{name}`."""
    names = set()
    for _, name, spec, conversion in string.Formatter().parse(text):
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ValueError(f"only plain {{name}} is allowed in a template, not {{{name}}}")
        names.add(name)
    return frozenset(names)
