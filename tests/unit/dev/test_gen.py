from pathlib import Path

from dev.gen import contracts, differences, generate

CONTRACT = """syntax = "proto3";
package motcua.thing.v1;
message GetThingRequest { string id = 1; }
message GetThingResponse { string id = 1; }
service ThingService { rpc GetThing(GetThingRequest) returns (GetThingResponse); }
"""
EVENTS = """syntax = "proto3";
package motcua.thing.v1;
message ThingMade { string id = 1; }
"""


def test_messages_code_and_stubs_are_generated_and_compared(tmp_path: Path) -> None:
    folder = tmp_path / "protos" / "motcua" / "thing" / "v1"
    folder.mkdir(parents=True)
    (folder / "thing.proto").write_text(CONTRACT)
    (folder / "events.proto").write_text(EVENTS)
    assert contracts(tmp_path / "protos") == ["motcua/thing/v1/events.proto", "motcua/thing/v1/thing.proto"]
    for out in ("one", "two"):
        generate(tmp_path / "protos", tmp_path / out)
    made = sorted(p.name for p in (tmp_path / "one" / "motcua" / "thing" / "v1").iterdir())
    assert made == [
        "events_pb2.py",
        "events_pb2.pyi",
        "thing_pb2.py",
        "thing_pb2.pyi",
        "thing_pb2_grpc.py",
        "thing_pb2_grpc.pyi",
    ]
    assert differences(tmp_path / "one", tmp_path / "two") == []
    changed = tmp_path / "two" / "motcua" / "thing" / "v1"
    (changed / "events_pb2.py").write_text("")
    (changed / "old_pb2.py").write_text("")
    assert differences(tmp_path / "one", tmp_path / "two") == [
        "motcua/thing/v1/events_pb2.py",
        "motcua/thing/v1/old_pb2.py",
    ]
