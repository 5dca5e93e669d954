"""Identity's signing keys, changed in peace: `python -m identity.keys show|add|promote|retire FILE`.

    add      a new key behind the first: it is published, and signs nothing yet
    promote  the second key becomes the first, which signs
    retire   all but the first go; their tokens are no longer right
    show     kid, and what each is for

Between two steps every identity must have been started again and every service must have seen the new keys
(docs/operations.md says how long). FILE is replaced at once, readable by its owner only; `-` reads standard
input and writes standard output, for a file that is kept in a Secret. A file that is not there is begun by
`add`; nothing on standard input is refused: there was a Secret, and it could not be read. Private halves go
to that file and nowhere else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm

from identity.tokens import key_of, new_jwk

Jwk = Mapping[str, Any]


def add(keys: Sequence[Jwk]) -> list[Jwk]:
    """With a new key in the second place, or the first of an empty set. Raises ValueError when two are there
    already: that change has to be ended first."""
    if len(keys) > 1:
        raise ValueError("there are two keys already: promote the new one, or retire the old one, first")
    return [*keys, new_jwk()]


def promote(keys: Sequence[Jwk]) -> list[Jwk]:
    """With the second key first. Raises ValueError when there is none, or it cannot sign."""
    if len(keys) != 2:
        raise ValueError(f"there are {len(keys)} keys; `add` makes the second")
    if "d" not in keys[1]:
        raise ValueError("the second key has no private half, so it cannot sign")
    return [keys[1], keys[0]]


def retire(keys: Sequence[Jwk]) -> list[Jwk]:
    """With the first key alone. Raises ValueError when there is no other."""
    if len(keys) < 2:
        raise ValueError("there is no key but the one that signs")
    return [keys[0]]


def show(keys: Sequence[Jwk]) -> str:
    """A line for each key, without its halves."""
    places = ["signs", *["is published"] * len(keys)]
    halves = ["" if "d" in key else " (public half only)" for key in keys]
    return "\n".join(
        f"{key_of(key).kid}  {place}{half}" for key, place, half in zip(keys, places, halves, strict=False)
    )


STEPS: Mapping[str, Callable[[Sequence[Jwk]], list[Jwk]]] = {
    "add": add,
    "promote": promote,
    "retire": retire,
}


def _read(file: str, *, new: bool) -> list[Jwk]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except FileNotFoundError:
        if not new:
            raise ValueError(f"there is no file {file}") from None
        return []
    try:
        keys = list(json.loads(text)["keys"])
        for key in keys:
            key_of(key)
    except (KeyError, TypeError, ValueError, UnsupportedAlgorithm):
        raise ValueError("this is not a set of Ed25519 JWKs") from None  # nothing of it: it may be secret
    return keys


def _write(file: str, keys: Sequence[Jwk]) -> None:
    text = json.dumps({"keys": keys})
    if file == "-":
        print(text)
        return
    path = Path(file)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def main() -> NoReturn:
    """The command. Ends with 2 and one line when a step cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m identity.keys", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("do", choices=["show", *STEPS])
    parser.add_argument("file", help="the JWK set, or - for standard input and output")
    arguments = parser.parse_args()
    try:
        keys = _read(arguments.file, new=arguments.do == "add")
        if arguments.do == "show":
            print(show(keys))
        else:
            changed = STEPS[arguments.do](keys)
            _write(arguments.file, changed)
            print(show(changed), file=sys.stderr)
    except (ValueError, OSError) as error:
        _fail(str(error))
    sys.exit(0)


def _fail(why: str) -> NoReturn:
    print(f"identity.keys: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
