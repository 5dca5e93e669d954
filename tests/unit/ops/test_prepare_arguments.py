"""The command line of the preparation: asking for help, or a slip of the fingers, changes nothing."""

from __future__ import annotations

import pytest

from ops import prepare


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--dry-run", 2), ("list", 2)])
def test_it_takes_no_arguments_and_does_nothing_with_one(
    argument: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["prepare", argument])
    monkeypatch.setattr(prepare, "PrepareSettings", None)
    with pytest.raises(SystemExit) as ended:
        prepare.main()
    assert ended.value.code == code
