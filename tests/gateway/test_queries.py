"""Queries: constant RPCs, connections, nodes, failures."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from kit.errors import Forbidden, Unavailable

WORKSPACE = """
query Workspace($dossiers: Int!, $notices: Int!) {
  viewer {
    id name kind
    dossiers(first: $dossiers) {
      edges { node {
        id code state createTime dueTime procedureName
        procedure { code name field }
        charges { id state amount { amount currency } }
      } }
      pageInfo { hasNextPage endCursor }
    }
    notices(first: $notices) { nodes { id title body createTime readTime } }
    unreadNotices
  }
}
"""


@pytest.mark.parametrize("size", [1, 20, 100])
async def test_the_workspace_costs_six_rpcs_whatever_the_page_size(
    gateway: Any, fakes: Any, size: int
) -> None:
    fakes.dossiers = 150
    data = await gateway.data(WORKSPACE, {"dossiers": size, "notices": 5})
    assert len(data["viewer"]["dossiers"]["edges"]) == size
    assert data["viewer"]["dossiers"]["edges"][0]["node"] == {
        "id": b64encode(b"Dossier:dossier-0").decode(),
        "code": "H32.15-261121-0000",
        "state": "IN_PROCESS",
        "createTime": "2026-11-23T05:00:00.123Z",
        "dueTime": None,
        "procedureName": "Đăng ký khai sinh",
        "procedure": {"code": "1.001193", "name": "Đăng ký khai sinh", "field": "Hộ tịch"},
        "charges": [
            {
                "id": b64encode(b"Charge:charge-0").decode(),
                "state": "DUE",
                "amount": {"amount": 8000, "currency": "VND"},
            }
        ],
    }
    assert data["viewer"]["unreadNotices"] == 3
    assert fakes.calls.total() == 6, fakes.calls


async def test_the_token_of_the_caller_travels_with_every_call(gateway: Any, fakes: Any) -> None:
    await gateway.data(WORKSPACE, {"dossiers": 1, "notices": 1})
    for name in fakes.calls:
        assert fakes.metadata[name]["authorization"].startswith("Bearer ")


async def test_every_edge_has_a_cursor_that_goes_on_after_it(gateway: Any, fakes: Any) -> None:
    query = """query ($after: String, $first: Int!) { viewer { dossiers(first: $first, after: $after) {
      edges { cursor node { code } } pageInfo { hasNextPage endCursor hasPreviousPage } } } }"""
    fakes.dossiers = 7
    every = (await gateway.data(query, {"first": 100}))["viewer"]["dossiers"]["edges"]
    codes = [edge["node"]["code"] for edge in every]
    assert len(codes) == 7
    first = (await gateway.data(query, {"first": 3}))["viewer"]["dossiers"]
    assert first["pageInfo"]["hasNextPage"] is True
    for index, edge in enumerate(first["edges"]):
        after = (await gateway.data(query, {"first": 2, "after": edge["cursor"]}))["viewer"]["dossiers"]
        assert [edge["node"]["code"] for edge in after["edges"]] == codes[index + 1 : index + 3]
        assert after["pageInfo"]["hasPreviousPage"] is True
    end = (await gateway.data(query, {"first": 3, "after": every[-1]["cursor"]}))["viewer"]["dossiers"]
    assert end["edges"] == []
    assert end["pageInfo"]["hasNextPage"] is False


@pytest.mark.parametrize(("size", "after"), [(0, None), (101, None), (5, "nonsense"), (5, "MTAwMDp4")])
async def test_a_page_size_or_cursor_out_of_range_is_an_invalid_input(
    gateway: Any, fakes: Any, size: int, after: str | None
) -> None:
    query = "query ($n: Int!, $a: String) { viewer { name dossiers(first: $n, after: $a) { nodes { id } } } }"
    answer = (await gateway.ask(query, {"n": size, "a": after})).json()
    assert answer["data"] == {"viewer": None}
    assert answer["errors"][0]["extensions"]["code"] == "INVALID_INPUT"
    assert answer["errors"][0]["path"] == ["viewer", "dossiers"]
    assert fakes.calls["ListDossiers"] == 0


async def test_a_stranger_has_no_viewer(gateway: Any, fakes: Any) -> None:
    assert await gateway.data("{ viewer { id } }", bearer="") == {"viewer": None}
    assert fakes.calls.total() == 0


async def test_nodes_are_found_by_their_ids_in_one_batch(gateway: Any, fakes: Any) -> None:
    data = await gateway.data("{ viewer { dossiers(first: 3) { nodes { id } } } }")
    ids = [node["id"] for node in data["viewer"]["dossiers"]["nodes"]]
    fakes.calls.clear()
    query = """query ($a: ID!, $b: ID!) {
      a: node(id: $a) { id __typename } b: node(id: $b) { id ... on Dossier { code } } }"""
    data = await gateway.data(query, {"a": ids[0], "b": ids[1]})
    assert data["a"] == {"id": ids[0], "__typename": "Dossier"}
    assert data["b"]["code"] == "H32.15-261121-0001"
    assert fakes.calls == {"BatchGetDossiers": 1}


@pytest.mark.parametrize("id", ["", "x", "bm90aGluZw==", "RG9zc2llcjo=", "VW5rbm93bjox"])
async def test_what_is_no_id_is_no_node(gateway: Any, id: str) -> None:
    assert await gateway.data("query ($id: ID!) { node(id: $id) { id } }", {"id": id}) == {"node": None}


async def test_what_does_not_exist_is_null(gateway: Any) -> None:
    assert await gateway.data('{ procedure(code: "9") { code } }') == {"procedure": None}
    assert await gateway.data('{ track(code: "9") { code } }', bearer="") == {"track": None}


async def test_a_field_that_summaries_lack_loads_the_procedure_itself(gateway: Any, fakes: Any) -> None:
    query = "{ viewer { dossiers(first: 7) { nodes { procedure { name decision form } } } } }"
    data = await gateway.data(query)
    assert data["viewer"]["dossiers"]["nodes"][0]["procedure"]["decision"] == "QĐ 1"
    assert fakes.calls["BatchGetProcedures"] == 2


async def test_a_part_that_is_down_costs_only_what_it_serves(gateway: Any, fakes: Any) -> None:
    fakes.fail["GetUnreadCount"] = Unavailable("DOWN", "gone")
    answer = (
        await gateway.ask('{ viewer { name dossiers { nodes { id } } } agency(code: "H32") { code } }')
    ).json()
    assert answer["data"]["viewer"]["name"]
    fakes.fail["ListDossiers"] = Forbidden("NOT_ALLOWED", "no")
    answer = (
        await gateway.ask('{ viewer { dossiers { nodes { id } } } agency(code: "H32") { code } }')
    ).json()
    assert answer["data"] == {"viewer": None, "agency": {"code": "H32"}}
    assert answer["errors"][0]["extensions"] == {"code": "FORBIDDEN", "reason": "NOT_ALLOWED"}


async def test_an_unexpected_failure_is_masked_with_an_id_that_the_log_has(
    gateway: Any, fakes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.fail["GetAccount"] = RuntimeError("secret of the database")
    response = await gateway.ask("{ viewer { name } }")
    error = response.json()["errors"][0]
    assert error["extensions"]["code"] == "INTERNAL"
    assert "secret" not in response.text
    assert error["extensions"]["id"] in error["message"]
    assert error["extensions"]["id"] in caplog.text


async def test_variables_that_do_not_fit_run_nothing(gateway: Any, fakes: Any) -> None:
    answer = (await gateway.ask(WORKSPACE, {"dossiers": "many", "notices": 1})).json()
    assert "data" not in answer
    assert answer["errors"][0]["extensions"]["code"] == "BAD_REQUEST"
    assert fakes.calls["ListDossiers"] == fakes.calls["ListNotices"] == 0


async def test_introspection_answers(gateway: Any) -> None:
    from graphql import build_client_schema, get_introspection_query, print_schema

    from gateway.schema import schema

    data = await gateway.data(get_introspection_query(descriptions=True))
    assert print_schema(build_client_schema(data)) == print_schema(schema())
