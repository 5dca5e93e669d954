"""The import rules name the modules of kit one by one; a new module must be sorted into one of them."""

import tomllib

from dev.options import ROOT

LEAVES = {"clock", "errors", "ids", "money", "text"}  # the ones that domain may import
RULES = {
    rule["name"]: rule
    for rule in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
MODULES = {path.stem for path in (ROOT / "services" / "kit").glob("*.py")} - {"__init__"}


def named(rule: str, key: str) -> set[str]:
    return {name.removeprefix("kit.") for name in RULES[rule][key] if name.startswith("kit.")}


def test_domain_may_import_the_leaves_of_kit_and_no_other_module_of_it() -> None:
    rule = "domain is pure: of ours only the leaves of kit, of others nothing that does I/O"
    assert named(rule, "forbidden_modules") == MODULES - LEAVES


def test_no_module_of_kit_but_mongo_may_import_motor() -> None:
    assert named("only kit.mongo imports motor", "source_modules") == MODULES - {"mongo"}
