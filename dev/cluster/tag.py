"""The tag of an image: the commit that last touched what goes into it, and a hash of what is not committed.

So the same content has the same tag, and a change to something else rolls nothing out.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dev.options import ROOT


def of_image(root: Path = ROOT) -> str:
    """The tag of what the Dockerfile at the root makes; its content is what .dockerignore lets in."""
    lines = (root / ".dockerignore").read_text().splitlines()
    return of(["Dockerfile", ".dockerignore", *(line[1:] for line in lines if line.startswith("!"))], root)


def of(paths: Sequence[str], root: Path = ROOT) -> str:
    """`<commit>`, `<commit>-<hash>` with changes that are not committed, `<hash>` without a git checkout."""
    try:
        commit = _git(root, "log", "-1", "--format=%h", "--abbrev=10", "--", *paths).strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=all", "-z", "--", *paths)
    except (OSError, subprocess.CalledProcessError):
        return _hash(root, paths)
    if commit and not changed:
        return commit
    return "-".join(part for part in (commit, _hash(root, paths)) if part)


def _hash(root: Path, paths: Sequence[str]) -> str:
    found = hashlib.sha256()
    for path in sorted(file for one in paths for file in _files(root / one)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{path.relative_to(root)} {content}\n".encode())
    return found.hexdigest()[:10]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
