"""Changing the signing keys, step by step."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from identity.keys import add, main, promote, retire, show
from identity.tokens import Tokens, key_of, load_keys


def kids(keys: Any) -> list[str]:
    return [key["kid"] for key in keys]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, given: str = "") -> int:
    monkeypatch.setattr(sys, "argv", ["identity.keys", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_new_key_is_published_but_signs_only_once_it_is_promoted() -> None:
    before = add([])
    after = add(before)
    assert kids(after)[0] == kids(before)[0]
    assert len(set(kids(after))) == 2
    assert kids(promote(after)) == list(reversed(kids(after)))
    assert kids(retire(promote(after))) == [kids(after)[1]]


def test_both_keys_are_published_while_they_change() -> None:
    tokens = Tokens([key_of(key) for key in promote(add(add([])))])
    assert len(tokens.jwks["keys"]) == 2


def test_steps_out_of_order_are_refused() -> None:
    one, two = add([]), add(add([]))
    for step, keys in ((promote, one), (retire, one), (add, two)):
        with pytest.raises(ValueError, match="key"):
            step(keys)
    with pytest.raises(ValueError, match="no private half"):
        promote([two[0], {name: value for name, value in two[1].items() if name != "d"}])


def test_what_is_shown_has_no_half_of_any_key() -> None:
    keys = promote(add(add([])))
    text = show(keys)
    assert [line.split()[0] for line in text.splitlines()] == kids(keys)
    assert "signs" in text.splitlines()[0]
    assert not any(key[half] in text for key in keys for half in ("x", "d"))


def test_the_file_is_replaced_whole_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "signing-keys.json"
    assert run(monkeypatch, "add", str(file)) == 0
    first = load_keys(file, create=False)
    assert run(monkeypatch, "add", str(file)) == 0
    assert run(monkeypatch, "promote", str(file)) == 0
    assert [key.kid for key in load_keys(file, create=False)][1] == first[0].kid
    assert run(monkeypatch, "retire", str(file)) == 0
    assert [key.kid for key in load_keys(file, create=False)] != [first[0].kid]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    [stored] = json.loads(file.read_text())["keys"]
    said = capsys.readouterr()
    assert stored["d"] not in said.out + said.err


def test_a_set_from_a_secret_goes_through_standard_input_and_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = add([])
    assert run(monkeypatch, "add", "-", given=json.dumps({"keys": keys})) == 0
    said = capsys.readouterr()
    changed = json.loads(said.out)["keys"]
    assert kids(changed)[0] == kids(keys)[0]
    assert not any(key["d"] in said.err for key in changed)


def test_what_is_no_key_set_is_refused_without_repeating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    file.write_text('{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "top secret"}]}')
    assert run(monkeypatch, "add", str(file)) == 2
    assert "secret" not in capsys.readouterr().err
    assert run(monkeypatch, "show", str(tmp_path / "none.json")) == 2


def test_a_secret_that_could_not_be_read_is_not_begun_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "add", "-", given="") == 2
    assert capsys.readouterr().out == ""
