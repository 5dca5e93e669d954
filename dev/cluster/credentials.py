"""The Secrets of a cluster: made at random once, kept afterwards.

deploy/k8s names them and their keys; this module makes them for kind and for the lab. In production an
operator brings Secrets of the same names and keys from a vault.
"""

from __future__ import annotations

import base64
import hashlib
import json
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path
from secrets import choice, token_bytes

from dev.cluster.kube import JSON, Kubectl, Refused
from dev.options import SERVICES
from dev.parts import IMPORTER
from identity.tokens import load_keys

Values = dict[str, dict[str, str]]  # Secret -> key -> value
Known = Mapping[str, Mapping[str, str]]
CALLERS = (*(name for name in SERVICES if name != "identity"), "gateway", IMPORTER)
"""Who has a service secret: whoever asks identity for a token of its own."""
PREPARE = "prepare"  # the user who makes streams and consumers
MONGO_HOSTS = ",".join(f"mongo-{n}.mongo:27017" for n in range(3))
STANDIN_URL = "mongodb://mongo-0.mongo:27017/?directConnection=true"
NATS_HOSTS = tuple(f"nats-{n}.nats:4222" for n in range(3))
LABELS = {"app.kubernetes.io/part-of": "motcua", "app.kubernetes.io/managed-by": "dev.cluster"}
NAMES = (
    *("mongo-auth", "nats-auth", "objects-auth", "grafana-auth"),
    *(f"{name}-env" for name in (*SERVICES, "gateway", IMPORTER, PREPARE, "sandbox")),
    "identity-files",
)
ATTEMPTS = 5  # when somebody else makes the same Secrets at the same time


def secrets(existing: Known | None = None, *, standin: bool = False) -> Values:
    """Every Secret with every key. What `existing` has is kept, what is missing is new.

    They are in the order in which to make them: a value before those that repeat it, so that what was left
    half done is completed with the same passwords. With `standin` the documents are in the stand-in, which
    has no users.
    """
    known = existing or {}
    whole = _over(_sources(), known)
    whole = _over(_derived(whole, standin), whole)
    files = whole["identity-files"]
    files["signing-keys.json"] = files.get("signing-keys.json") or signing_keys()
    digests = json.loads(_derived(whole, standin)["identity-files"]["services.json"])
    files["services.json"] = json.dumps({**digests, **json.loads(files["services.json"])})  # new names join
    return {name: whole[name] for name in NAMES}


def misfits(whole: Known, *, standin: bool = False) -> list[str]:
    """Kept values that do not say what the Secret says that they repeat: `secret/key`, never a value.

    One of the two was edited, or deleted and made anew.
    """
    return [
        f"{name}/{key}"
        for name, keys in _derived(whole, standin).items()
        for key, value in keys.items()
        if not _fits(key, whole[name][key], value)
    ]


def _fits(key: str, kept: str, wanted: str) -> bool:
    if key != "services.json":
        return kept == wanted
    known = {name: one if isinstance(one, list) else [one] for name, one in json.loads(kept).items()}
    return all(digest in known.get(name, ()) for name, digest in json.loads(wanted).items())


def _sources() -> Values:
    """What is made at random."""
    made = {
        "mongo-auth": {
            "keyfile": base64.b64encode(token_bytes(756)).decode(),  # 1008 characters of at most 1024
            **_passwords("root", "backup", *SERVICES),
        },
        "nats-auth": _passwords("cluster", "admin", PREPARE, "operator", "gateway", *SERVICES),
        "objects-auth": {"access-key": password(20), "secret-key": password()},
        "grafana-auth": {"admin-user": "admin", **_passwords("admin")},
        "identity-env": {},
        **{f"{name}-env": {"SERVICE_SECRET": password()} for name in CALLERS},
    }
    made["dossier-env"]["DOWNLOAD_SECRET"] = password()
    made["payment-env"].update(VNPAY_HASH_SECRET=password(), BANK_SECRET=password())
    return made


def _derived(values: Known, standin: bool) -> Values:
    """What repeats a value of another Secret."""
    made: Values = {f"{name}-env": {} for name in (*SERVICES, "gateway", PREPARE, "sandbox")}
    for name in SERVICES:
        user = f"{name}:{values['mongo-auth'][f'{name}-password']}"
        url = f"mongodb://{user}@{MONGO_HOSTS}/?replicaSet=rs0&authSource=admin"
        made[f"{name}-env"]["MONGODB_URL"] = STANDIN_URL if standin else url
    for name in (*SERVICES, "gateway", PREPARE):
        user = f"{name}:{values['nats-auth'][f'{name}-password']}"
        made[f"{name}-env"]["NATS_URL"] = ",".join(f"nats://{user}@{host}" for host in NATS_HOSTS)
    made["dossier-env"]["AWS_ACCESS_KEY_ID"] = values["objects-auth"]["access-key"]
    made["dossier-env"]["AWS_SECRET_ACCESS_KEY"] = values["objects-auth"]["secret-key"]
    for key in ("VNPAY_HASH_SECRET", "BANK_SECRET"):
        made["sandbox-env"][key] = values["payment-env"][key]
    digests = {name: _digest(values[f"{name}-env"]["SERVICE_SECRET"]) for name in CALLERS}
    made["identity-files"] = {"services.json": json.dumps(digests)}
    return made


def _over(below: Known, above: Known) -> Values:
    """The keys of both; where both have one, the value of `above`."""
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in (*below, *above)}


def _passwords(*names: str) -> dict[str, str]:
    return {f"{name}-password": password() for name in names}


def password(length: int = 44) -> str:
    """Random letters (5.7 bits each).

    Nothing else, because nats.conf reads a value that begins like a number as one, and URLs hold them too.
    """
    return "".join(choice(string.ascii_letters) for _ in range(length))


def signing_keys() -> str:
    """A JWK set with one new private key, as identity makes it."""
    with tempfile.TemporaryDirectory(prefix="motcua-") as folder:
        path = Path(folder) / "signing-keys.json"
        load_keys(path, create=True)
        return path.read_text()


def _digest(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def manifest(name: str, namespace: str, values: Mapping[str, str], version: str = "") -> JSON:
    """A Secret; with `version` it replaces that one and no later one."""
    metadata = {"name": name, "namespace": namespace, "labels": LABELS}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**metadata, **({"resourceVersion": version} if version else {})},
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }


def ensure(kubectl: Kubectl, *, standin: bool = False) -> list[str]:
    """Makes what is missing in the namespace, and that too; answers a line for each Secret, without values.

    Raises Refused when the API server does.
    """
    for _ in range(ATTEMPTS):
        if kubectl.find("namespace", kubectl.namespace) is None:
            kubectl("create", "namespace", kubectl.namespace)
        found = {item["metadata"]["name"]: item for item in kubectl.get("secrets")}
        stored = {name: found[name] for name in NAMES if name in found}
        known = {
            name: {key: base64.b64decode(value).decode() for key, value in (item.get("data") or {}).items()}
            for name, item in stored.items()
        }
        whole = secrets(known, standin=standin)
        try:
            lines = [_ensure_one(kubectl, name, whole[name], stored.get(name)) for name in whole]
        except Refused as refused:
            if "AlreadyExists" in str(refused) or "Conflict" in str(refused):
                continue  # somebody else was faster: look again
            raise
        return lines + [f"{place:<34} kept, but it does not fit" for place in misfits(whole, standin=standin)]
    raise Refused("the Secrets keep changing; is somebody else making them?")


def _ensure_one(kubectl: Kubectl, name: str, values: Mapping[str, str], stored: JSON | None) -> str:
    if stored is None:
        kubectl("create", "-f", "-", input=json.dumps(manifest(name, kubectl.namespace, values)))
        return f"{name:<16} made, {len(values)} keys"
    wanted = manifest(name, kubectl.namespace, values)["data"]
    kept = stored.get("data") or {}
    if wanted == kept:
        return f"{name:<16} kept"
    stored["data"] = wanted
    kubectl("replace", "-f", "-", input=json.dumps(stored))  # refused when it changed since it was read
    changed = sorted(key for key in wanted if kept.get(key) != wanted[key])
    return f"{name:<16} kept, with {', '.join(changed)} added to"
