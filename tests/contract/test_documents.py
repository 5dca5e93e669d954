"""What README.md and docs/ point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    astray = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        there = document.parent / file if file else document
        if not there.exists() or (anchor and anchor not in anchors(there)):
            astray.append(link)
    assert not astray


def test_files_named_in_the_readme_are_there() -> None:
    readme = DOCUMENTS[0].read_text()
    rules = readme.partition("## Where a rule is\n")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w/]+\.(?:py|conf))`", rules)
    folders = (
        ROOT,
        ROOT / "services",
        ROOT / "graphql" / "gateway",
        ROOT / "services" / "dossier" / "content",
    )
    assert len(named) > 20
    assert not [name for name in named if not any((folder / name).is_file() for folder in folders)]
