"""The Secrets of a cluster: complete, random, agreeing with each other, and never replaced."""

import asyncio
import base64
import hashlib
import json
import string
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dev.cluster.credentials import STANDIN_URL, ensure, misfits, secrets
from dev.cluster.kube import Kubectl, Refused
from dev.options import SERVICES
from identity.tokens import load_keys

# A kubectl that keeps Secrets in a folder and writes down every command line: get, create, replace.
FAKE = """#!{python}
import json, sys
from pathlib import Path
folder = Path({folder!r})
arguments = sys.argv[sys.argv.index("--namespace") + 2:]
with open(folder / "calls.log", "a") as log:
    log.write(" ".join(sys.argv) + "\\n")
def fail(text):
    print(text, file=sys.stderr)
    sys.exit(1)
def store(item, version):
    item["metadata"]["resourceVersion"] = str(version)
    (folder / (item["metadata"]["name"] + ".json")).write_text(json.dumps(item))
verb, what = arguments[:2]
if (verb, what) == ("get", "namespace"):
    if (folder / "namespace").exists():
        print("{{}}")
elif (verb, what) == ("create", "namespace"):
    (folder / "namespace").touch()
elif (verb, what) == ("get", "secrets"):
    print(json.dumps({{"items": [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]}}))
elif (verb, what) == ("create", "-f"):
    item = json.load(sys.stdin)
    rival = folder / "rival"  # somebody else makes this one at the same moment, with other values
    if rival.exists():
        rival.unlink()
        store({{**item, "data": {{key: "cml2YWw=" for key in item["data"]}}}}, 1)
    if (folder / (item["metadata"]["name"] + ".json")).exists():
        fail('Error from server (AlreadyExists): secrets "x" already exists')
    store(item, 1)
elif (verb, what) == ("replace", "-f"):
    item = json.load(sys.stdin)
    kept = json.loads((folder / (item["metadata"]["name"] + ".json")).read_text())
    if kept["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
        fail("Error from server (Conflict): the object has been modified")
    store(item, int(kept["metadata"]["resourceVersion"]) + 1)
else:
    fail("unknown: " + " ".join(arguments))
"""


@pytest.fixture
def kubectl(tmp_path: Path) -> Kubectl:
    program = tmp_path / "kubectl"
    program.write_text(FAKE.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o700)
    return Kubectl(program=str(program))


def stored(folder: Path) -> dict[str, dict[str, str]]:
    items = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return {item["metadata"]["name"]: item["data"] for item in items}


def test_every_service_has_an_address_with_its_own_user_for_documents_and_events() -> None:
    made = secrets()
    for name in SERVICES:
        env = made[f"{name}-env"]
        assert f"{name}:{made['mongo-auth'][f'{name}-password']}@mongo-0.mongo:27017," in env["MONGODB_URL"]
        for server in env["NATS_URL"].split(","):
            url = urlsplit(server)
            assert (url.username, url.password) == (name, made["nats-auth"][f"{name}-password"])
    assert "MONGODB_URL" not in made["gateway-env"]
    assert set(made["importer-env"]) == {"SERVICE_SECRET"}


def test_with_the_stand_in_no_address_of_documents_has_a_user() -> None:
    made = secrets(standin=True)
    assert {made[f"{name}-env"]["MONGODB_URL"] for name in SERVICES} == {STANDIN_URL}


def test_identity_knows_the_digest_of_each_service_secret_and_nothing_more() -> None:
    made = secrets()
    digests = json.loads(made["identity-files"]["services.json"])
    assert set(digests) == {"catalog", "dossier", "payment", "notify", "gateway", "importer"}
    for name, digest in digests.items():
        secret = made[f"{name}-env"]["SERVICE_SECRET"]
        assert digest == f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
    assert "SERVICE_SECRET" not in made["identity-env"]


def test_identity_can_sign_with_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "signing-keys.json"
    path.write_text(secrets()["identity-files"]["signing-keys.json"])
    assert load_keys(path, create=False)[0].private is not None


def test_both_ends_of_a_shared_secret_have_the_same() -> None:
    made = secrets()
    assert made["sandbox-env"] == {
        key: made["payment-env"][key] for key in ("VNPAY_HASH_SECRET", "BANK_SECRET")
    }
    assert made["dossier-env"]["AWS_SECRET_ACCESS_KEY"] == made["objects-auth"]["secret-key"]


def test_no_two_values_are_alike_and_no_two_clusters_share_one() -> None:
    own = [
        value
        for name in ("mongo-auth", "nats-auth", "objects-auth")
        for made in (secrets(), secrets())
        for value in made[name].values()
    ]
    assert len(set(own)) == len(own)


def test_passwords_are_letters_because_nats_reads_other_values_as_numbers() -> None:
    for value in secrets()["nats-auth"].values():
        assert set(value) <= set(string.ascii_letters)
        assert len(value) >= 40


def test_the_key_file_is_what_mongodb_accepts() -> None:
    keyfile = secrets()["mongo-auth"]["keyfile"]
    assert 6 <= len(keyfile) <= 1024
    assert set(keyfile) <= set(string.ascii_letters + string.digits + "+/=")


def test_what_is_there_is_kept_and_what_is_missing_fits_it() -> None:
    first = secrets()
    left = {name: dict(keys) for name, keys in first.items() if name not in ("dossier-env", "sandbox-env")}
    del left["payment-env"]["NATS_URL"]
    left["notify-env"]["SMTP_PASSWORD"] = "by hand"
    second = secrets(left)
    assert second["mongo-auth"] == first["mongo-auth"]
    assert second["payment-env"] == first["payment-env"]
    assert second["sandbox-env"] == first["sandbox-env"]
    assert second["dossier-env"]["MONGODB_URL"] == first["dossier-env"]["MONGODB_URL"]
    assert second["notify-env"]["SMTP_PASSWORD"] == "by hand"


def test_a_new_service_joins_those_that_identity_knows() -> None:
    first = secrets()
    digests = json.loads(first["identity-files"]["services.json"])
    del digests["importer"]
    digests["other"] = "sha256:00"
    left = {**first, "identity-files": {**first["identity-files"], "services.json": json.dumps(digests)}}
    del left["importer-env"]
    second = secrets(left)
    assert set(json.loads(second["identity-files"]["services.json"])) == {*digests, "importer"}
    assert misfits(second) == []


def test_a_secret_made_anew_alone_is_told_with_what_does_not_fit_it() -> None:
    left = secrets()
    del left["nats-auth"], left["gateway-env"]
    told = misfits(secrets(left))
    assert told == [
        *(f"{name}-env/NATS_URL" for name in (*SERVICES, "prepare")),
        "identity-files/services.json",
    ]


def test_a_second_run_changes_nothing(kubectl: Kubectl, tmp_path: Path) -> None:
    first = ensure(kubectl)
    before = stored(tmp_path)
    second = ensure(kubectl)
    assert stored(tmp_path) == before
    assert set(before) == set(secrets())
    assert all(" made" in line for line in first)
    assert all(line.endswith(" kept") for line in second)


def test_a_missing_key_is_added_and_the_others_stay(kubectl: Kubectl, tmp_path: Path) -> None:
    ensure(kubectl)
    path = tmp_path / "dossier-env.json"
    item = json.loads(path.read_text())
    kept = dict(item["data"])
    del item["data"]["DOWNLOAD_SECRET"]
    path.write_text(json.dumps(item))
    lines = ensure(kubectl)
    after = stored(tmp_path)["dossier-env"]
    assert set(after) == set(kept)
    assert {**after, "DOWNLOAD_SECRET": ""} == {**kept, "DOWNLOAD_SECRET": ""}
    assert [line for line in lines if "DOWNLOAD_SECRET" in line]


def test_two_who_make_them_at_once_end_with_the_same(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "rival").touch()
    ensure(kubectl)
    assert set(stored(tmp_path)["mongo-auth"].values()) == {"cml2YWw="}
    assert not [line for line in ensure(kubectl) if "fit" in line]


def test_no_value_is_on_a_command_line_or_told(kubectl: Kubectl, tmp_path: Path) -> None:
    lines = ensure(kubectl)
    seen = (tmp_path / "calls.log").read_text() + "\n".join(lines)
    for keys in stored(tmp_path).values():
        for value in keys.values():
            assert value not in seen
            assert base64.b64decode(value).decode() not in seen


async def test_print_writes_new_ones_and_asks_no_cluster(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dev.cluster", "secrets", "--print", "--namespace", "elsewhere"),
        env={"PATH": "", "KUBECONFIG": str(tmp_path / "none")},
        stdout=asyncio.subprocess.PIPE,
    )
    items = json.loads((await process.communicate())[0])["items"]
    assert {item["metadata"]["name"] for item in items} == set(secrets())
    assert {item["metadata"]["namespace"] for item in items} == {"elsewhere"}


def test_what_kubectl_complains_about_is_told(tmp_path: Path) -> None:
    program = tmp_path / "kubectl"
    program.write_text("#!/bin/sh\necho 'the connection to the server was refused' >&2; exit 1\n")
    program.chmod(0o700)
    with pytest.raises(Refused, match="the connection to the server was refused"):
        ensure(Kubectl(program=str(program)))
