"""`make settings`: every setting of every part, read from the Settings classes that the parts run with."""

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings
from rich.console import Console
from rich.table import Table

from dev.options import GATEWAY_PORT, PORTS, SERVICES
from kit.settings import Settings

PARTS = (*SERVICES, "gateway", "sandbox", "ops")
RUN = (
    ("DATA_DIR", "path", ".data", "where `make run` keeps everything"),
    ("MONGODB_URL", "str", "", "a MongoDB to use; empty: mongod from the path, else the stand-in"),
    ("ENVIRONMENT", "str", "development", "development, test or production, handed to every part"),
    *(
        (
            f"{name.upper()}_PORT",
            "int",
            str(GATEWAY_PORT) if name == "gateway" else "free",
            "port of that part",
        )
        for name in PORTS
    ),
)


@dataclass(frozen=True)
class Setting:
    """One row of the table. `name` is the environment variable."""

    name: str
    type: str
    default: str
    meaning: str


def classes(part: str) -> list[type[BaseSettings]]:
    """The settings classes that a part defines, found by importing what wires it."""
    for module in ("bootstrap", "settings"):
        if importlib.util.find_spec(f"{part}.{module}"):
            importlib.import_module(f"{part}.{module}")
    found: list[type[BaseSettings]] = []
    todo = [BaseSettings]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if cls.__module__.split(".")[0] == part:
                found.append(cls)
    return found


def settings(cls: type[BaseSettings], without: frozenset[str] = frozenset()) -> list[Setting]:
    """The settings of a class, in the order of their definition, but for the names in `without`."""
    return [
        Setting(name.upper(), _type(field.annotation), _default(field.default), field.description or "")
        for name, field in cls.model_fields.items()
        if name not in without
    ]


def _type(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    return ("" if not value.get_secret_value() else "***") if isinstance(value, SecretStr) else str(value)


def table(title: str, rows: list[Setting]) -> Table:
    """A table of one part's settings."""
    made = Table("name", "type", "default", "meaning", title=title, title_justify="left")
    for row in rows:
        made.add_row(row.name, row.type, row.default, row.meaning)
    return made


def main() -> int:
    """Prints one table for what all services share, then one for each part with what is its own."""
    wide = int(os.environ.get("COLUMNS", "0")) or (None if sys.stdout.isatty() else 160)
    console = Console(width=wide)
    console.print(table("make run", [Setting(*row) for row in RUN]))
    shared = settings(Settings)
    console.print(table("every service", shared))
    for part in PARTS:
        for cls in classes(part):
            same = (
                {row.name.lower() for row in settings(cls) if row in shared}
                if issubclass(cls, Settings)
                else set()
            )
            rows = settings(cls, frozenset(same))
            if rows:
                console.print(table(f"{part}: {(cls.__doc__ or '').partition(chr(10))[0]}", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
