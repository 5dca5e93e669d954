from pathlib import Path

from dev.options import private
from dev.parts import addresses
from dev.run import Tail, banner


def test_only_whole_lines_written_from_now_on_are_shown_with_their_part(tmp_path: Path) -> None:
    log = tmp_path / "nats.log"
    log.write_text("before\n")
    tail = Tail(tmp_path, ["nats", "gateway"], colour=False)
    with open(log, "a") as file:
        file.write("one\nhal")
    assert tail.lines() == ["nats    │ one"]
    with open(log, "a") as file:
        file.write("f\n")
    (tmp_path / "gateway.log").write_text("hello\n")
    assert tail.lines() == ["nats    │ half", "gateway │ hello"]
    assert tail.lines() == []


def test_a_log_that_began_anew_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "nats.log"
    log.write_text("a long line from before\n")
    tail = Tail(tmp_path, ["nats"], colour=False)
    log.write_text("new\n")
    assert tail.lines() == ["nats │ new"]


def test_a_person_is_told_where_everything_is(tmp_path: Path) -> None:
    where = addresses(private(tmp_path))
    text = banner(where)
    for needed in (where.graphql, where.mail, where.sandbox, str(where.logs), "nt.tiepnhan", "Motcua@2026"):
        assert needed in text
