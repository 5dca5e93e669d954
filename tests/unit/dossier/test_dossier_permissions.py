"""Who may call what: every use case of dossiers and the vault against every kind of caller."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from dossier.grpc_api.dossiers import DossierApi
from dossier.grpc_api.vault import VaultApi
from dossier.handlers import events, filing, office, overview, records, storage, uploads, vault
from kit.auth import ANONYMOUS, Caller, Role, check
from kit.errors import Forbidden, Unauthenticated

CALLERS = {
    "nobody": ANONYMOUS,
    "citizen": Caller("an", "citizen"),
    **{
        role: Caller(role, "official", (Role("H32.15", role),))
        for role in ("reception", "examiner", "leader", "clerk", "cashier", "admin")
    },
    "payment": Caller("payment", "service"),
    "notify": Caller("notify", "service"),
    "dossier": Caller("dossier", "service"),
}
OFFICE = {"reception", "examiner", "leader"}
OFFICIALS = {"reception", "examiner", "leader", "clerk", "cashier", "admin"}
PEOPLE = {"citizen", *OFFICIALS}
MATRIX: dict[str, set[str]] = {
    "create_dossier": {"citizen", "reception"},
    "update_dossier": {"citizen", "reception"},
    "submit_dossier": {"citizen", "reception"},
    "supplement_dossier": {"citizen", "reception"},
    "withdraw_dossier": {"citizen", "reception"},
    "rate_dossier": {"citizen"},
    "receive_dossier": {"reception"},
    "reject_dossier": OFFICE,
    "request_supplement": OFFICE,
    "request_payment": OFFICE,
    "hand_off": OFFICE,
    "complete_step": OFFICE | {"clerk"},
    "extend_deadline": OFFICE,
    "stop_dossier": OFFICE,
    "decline_withdrawal": {"reception", "leader"},
    "sign_result": {"leader"},
    "hand_over_result": {"reception", "clerk"},
    "charge_paid": {"payment"},
    "charge_refunded": {"payment"},
    "settle_again": {"dossier"},
    "keep_sights_again": {"dossier"},
    "open_account_record": OFFICE | {"clerk"},
    "get_dossier": PEOPLE | {"payment", "notify"},
    "batch_get_dossiers": PEOPLE | {"payment", "notify"},
    "list_dossiers": {"citizen"},
    "list_worklist": OFFICIALS,
    "track_dossier": set(CALLERS),
    "get_statistics": OFFICIALS,
    "begin_upload": PEOPLE,
    "get_upload": PEOPLE,
    "append_upload": PEOPLE,
    "cancel_upload": PEOPLE,
    "get_document": PEOPLE | {"notify"},
    "batch_get_documents": PEOPLE | {"notify"},
    "list_documents": {"citizen"},
    "update_document": {"citizen"},
    "verify_document": {"reception", "examiner", "clerk"},
    "create_download": PEOPLE,
    "read_document": set(CALLERS),  # the token is the right
    "list_accesses": {"citizen"},
    "get_storage": {"citizen"},
}


def guarded() -> dict[str, Any]:
    modules = (filing, office, events, overview, records, storage, uploads, vault)
    return {
        name: thing
        for module in modules
        for name, thing in vars(module).items()
        if hasattr(thing, "allowed") and thing.__module__ == module.__name__
    }


def test_every_use_case_is_in_the_matrix() -> None:
    assert set(guarded()) == set(MATRIX)


def test_every_rpc_goes_through_a_guarded_use_case() -> None:
    for api in (DossierApi, VaultApi):
        for name, method in vars(api).items():
            if name[0].isupper():
                source = inspect.getsource(method)
                assert any(f".{use_case}(" in source for use_case in MATRIX), name


@pytest.mark.parametrize("use_case", MATRIX)
@pytest.mark.parametrize("who", CALLERS)
def test_the_matrix(use_case: str, who: str) -> None:
    allowed = guarded()[use_case].allowed
    if who in MATRIX[use_case]:
        check(CALLERS[who], allowed)
    else:
        with pytest.raises(Unauthenticated if who == "nobody" else Forbidden):
            check(CALLERS[who], allowed)
