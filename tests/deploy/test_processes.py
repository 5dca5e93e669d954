"""Every process is one that the code has, is told what it can be told, and would start with it."""

from __future__ import annotations

import datetime
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import obstore.exceptions
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from obstore.store import S3Store
from pydantic import ValidationError

from dev.mailbox import Folder, website
from dev.options import ROOT
from gateway.documents import Documents, Limits, read_trusted
from gateway.schema import schema
from kit import probe, service
from kit.settings import CannotStart, Settings
from tests.deploy.code import addresses_used, durables, entry, file_of, names_of, settings_of
from tests.deploy.network import made
from tests.deploy.rendered import (
    KIND,
    PROD,
    Overlay,
    Workload,
    mounts,
    names,
    overlay,
    own_env,
    under,
)

ALL = [(name, one.name) for name in names() for one in overlay(name).ours()]
SMTP = {"SMTP_USERNAME", "SMTP_PASSWORD"}  # in production only, where the mail server wants to know who sends


def test_the_image_runs_what_it_is_told_as_a_module() -> None:
    assert 'ENTRYPOINT ["python", "-m"]' in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize(("name", "process"), ALL)
def test_the_command_is_a_module_that_runs(name: str, process: str) -> None:
    workload = overlay(name).workloads[process]
    assert "command" not in workload.app
    assert entry(workload.module), workload.module
    assert in_image(workload, workload.module), f"{workload.app['image']} does not have it"


def in_image(workload: Workload, module: str) -> Path | None:
    """The source of a module when the image of the workload has it, as the Dockerfile says; else None."""
    source = file_of(f"{module}.__main__") or file_of(module)
    assert source
    wanted = "tools" if "motcua-tools" in workload.app["image"] else "runtime"
    for copied in image_content(wanted):
        if source.is_relative_to(ROOT / copied):
            return source
    return None


def image_content(target: str) -> dict[str, str]:
    """What a target of the Dockerfile has of the repository: the path there by the path here."""
    stages: dict[str, dict[str, str]] = {}
    stage: dict[str, str] = {}
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines():
        if found := re.match(r"FROM (\S+) AS (\S+)", line):
            stage = stages[found[2]] = dict(stages.get(found[1], {}))
        elif found := re.match(r"COPY --from=(\S+) /app /app", line):
            stage.update(stages[found[1]])
        elif (found := re.match(r"COPY (.+) (/app\S*)$", line)) and "--from" not in line:
            for source in found[1].split():
                place = found[2] + Path(source).name if found[2].endswith("/") else found[2]
                stage[source] = place
    return stages[target]


def on_this_machine(
    workload: Workload, folder: Path, told: Mapping[str, str], here: Overlay
) -> dict[str, str]:
    """The settings with each path in the pod replaced by one of this machine that has the same."""
    there = mounts(workload)
    seen = {}
    for name, value in told.items():
        if value.startswith("/app/"):
            copied = {place: source for source, place in image_content("runtime").items()}
            found = under(value, {place: {} for place in copied})
            assert found, f"{name}: {value} is not in the image"
            value = str(ROOT / copied[str(found[0])] / Path(value).relative_to(found[0]))
        elif value.startswith("/") and (mounted := under(value, there)):
            place = folder / mounted[0].name
            _fill(place, mounted[1], here)
            value = str(place / Path(value).relative_to(mounted[0]))
        seen[name] = value
    return seen


def _fill(place: Path, volume: Mapping[str, Any], here: Overlay) -> None:
    """Makes a folder with what the volume has."""
    place.mkdir(exist_ok=True)
    files: dict[str, str] = {}
    if "configMap" in volume:
        files = here.one("ConfigMap", volume["configMap"]["name"])["data"]
    if "secret" in volume:
        name = volume["secret"]["secretName"]
        certified = {one["spec"]["secretName"]: one for one in here.of("Certificate")}
        files = made()[name] if name in made() else _certificate(certified[name])
    for file, text in files.items():
        (place / file).write_text(text)


def _certificate(wanted: Mapping[str, Any]) -> dict[str, str]:
    """A Secret as cert-manager makes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, wanted["spec"]["commonName"])])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in wanted["spec"]["dnsNames"]])
    own = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, False)
        .sign(key, hashes.SHA256())
    )
    text = own.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    return {"tls.crt": text, "tls.key": private, "ca.crt": text}


def environment(here: Overlay, workload: Workload, folder: Path) -> dict[str, str]:
    """All variables of the process, Secrets included."""
    told: dict[str, str] = {}
    for name in here.secrets(workload):
        told.update(made().get(name, {}))
    return on_this_machine(workload, folder, {**told, **here.settings(workload)}, here)


async def start(module: str) -> None:
    """As far as a process gets without anything that it calls. Raises CannotStart, ValidationError."""
    kind = settings_of(module)
    if kind is None:
        return
    settings = kind()
    place = next((f"{module}.{part}" for part in ("bootstrap", "app") if file_of(f"{module}.{part}")), None)
    if place:
        importlib.import_module(place).build(settings)


def set_only(monkeypatch: pytest.MonkeyPatch, told: Mapping[str, str]) -> None:
    """The environment of this process is that of a pod."""
    for name in list(os.environ):
        if name not in ("PATH", "HOME"):
            monkeypatch.delenv(name)
    for name, value in told.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("name", "process"), ALL)
async def test_every_process_starts_with_what_it_is_told(
    name: str, process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = overlay(name)
    workload = here.workloads[process]
    set_only(monkeypatch, environment(here, workload, tmp_path))
    await start(workload.module)


@pytest.mark.parametrize(
    ("process", "missing"),
    [
        ("identity", "IDENTITY_SIGNING_KEYS"),
        ("dossier", "DOWNLOAD_SECRET"),
        ("dossier", "OBJECT_STORE_URL"),
        ("payment", "VNPAY_HASH_SECRET"),
        ("payment", "BANK_API_URL"),
        ("payment", "VNPAY_PAY_URL"),
        ("gateway", "PUBLIC_URL"),
        ("gateway", "TRUSTED_DOCUMENTS"),
        ("gateway", "TLS_CA"),
    ],
)
async def test_in_production_a_process_refuses_to_start_without(
    process: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = overlay(PROD)
    workload = here.workloads[process]
    told = environment(here, workload, tmp_path)
    del told[missing]
    set_only(monkeypatch, told)
    with pytest.raises((CannotStart, ValidationError)):
        await start(workload.module)


def is_setting(name: str, module: str) -> bool:
    """Whether the process behind `python -m module` reads a variable: itself, or obstore in it."""
    if name in names_of(settings_of(module)):
        return True
    if not name.startswith("AWS_") or "AWS_ENDPOINT" not in addresses_used(module):
        return False
    try:
        S3Store("bucket", config={name.lower(): ""})  # type: ignore[arg-type]
    except obstore.exceptions.UnknownConfigurationKeyError:
        return False
    except obstore.exceptions.BaseError:
        pass  # it knows the name and wants another value
    return True


@pytest.mark.parametrize(("name", "process"), ALL)
def test_a_process_is_told_nothing_that_it_does_not_read(name: str, process: str) -> None:
    here = overlay(name)
    workload = here.workloads[process]
    own = set(own_env(workload))
    for secret in here.secrets(workload):
        own |= set(made().get(secret, {}))
    for external in here.of("ExternalSecret"):
        if external["metadata"]["name"] in here.secrets(workload):
            own |= {one["secretKey"] for one in external["spec"]["data"]}
    assert {variable for variable in own if not is_setting(variable, workload.module)} == set()


@pytest.mark.parametrize("name", names())
def test_what_all_are_told_is_a_setting_of_some(name: str) -> None:
    here = overlay(name)
    readers: dict[str, set[str]] = {}
    for workload in here.ours():
        for variable in set(here.settings(workload)) - set(own_env(workload)):
            readers.setdefault(variable, set())
            if is_setting(variable, workload.module):
                readers[variable].add(workload.name)
    assert len(readers) > 10
    assert {variable for variable, by in readers.items() if not by} == set()


def test_a_name_that_is_misspelt_is_no_setting() -> None:
    assert is_setting("AWS_ENDPOINT", "dossier")
    assert not is_setting("AWS_ENDPIONT", "dossier")
    assert not is_setting("AWS_ENDPOINT", "catalog")
    assert not is_setting("CATALOG_TARGETS", "dossier")


@pytest.mark.parametrize(("name", "process"), ALL)
def test_ports_are_those_that_the_process_listens_on(name: str, process: str) -> None:
    here = overlay(name)
    workload = here.workloads[process]
    told = here.settings(workload)
    if workload.module == "dev.mailbox":
        listens = {"smtp": workload.app["args"][2], "http": workload.app["args"][3]}
    else:
        listens = {
            port: told[setting].rpartition(":")[2]
            for port, setting in (
                ("grpc", "GRPC_LISTEN"),
                ("probe", "PROBE_LISTEN"),
                ("metrics", "METRICS_LISTEN"),
                ("http", "GATEWAY_PORT"),
                ("http", "SANDBOX_LISTEN"),
            )
            if setting in told and port in _opened(workload.module)
        }
    ports = {port["name"]: str(port["containerPort"]) for port in workload.app.get("ports", [])}
    assert ports == listens


def _opened(module: str) -> set[str]:
    """What a process listens for: a service gRPC, the gateway and the sandbox HTTP, a job nothing."""
    if file_of(f"{module}.bootstrap"):
        return {"grpc", "probe", "metrics"}
    if file_of(f"{module}.app"):
        kind = settings_of(module)
        return {"http", *(["metrics"] if kind and issubclass(kind, Settings) else [])}
    return set()


@pytest.mark.parametrize("name", [KIND, PROD])
def test_probes_ask_what_the_process_answers(name: str) -> None:
    """The lab's Kubernetes is older than probes over gRPC, and has others."""
    asked = 0
    for workload in overlay(name).ours():
        for when in ("startupProbe", "livenessProbe", "readinessProbe"):
            found = workload.app.get(when)
            if found and "grpc" in found:
                assert found["grpc"]["port"] == workload.port("probe")
                assert found["grpc"]["service"] == (probe.LIVE if when == "livenessProbe" else probe.READY)
                asked += 1
        if workload.component in ("service", "gateway", "sandbox"):
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(workload.app)
    assert asked == 15


@pytest.mark.parametrize("name", names())
async def test_probes_over_http_ask_for_pages_that_there_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = overlay(name)
    asked = 0
    for workload in here.ours():
        probes = [workload.app[key] for key in workload.app if key.endswith("Probe")]
        found = [one["httpGet"] for one in probes if "httpGet" in one]
        if not found:
            continue
        with monkeypatch.context() as patch:
            folder = tmp_path / workload.name
            folder.mkdir()
            set_only(patch, environment(here, workload, folder))
            kind = settings_of(workload.module)
            app = website(Folder(folder))
            if kind is not None:
                app = importlib.import_module(f"{workload.module}.app").build(kind())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pod") as client:
            for get in found:
                assert workload.port(get["port"]) == workload.port("http")
                assert (await client.get(get["path"])).status_code in (200, 503), get["path"]
                asked += 1
            assert (await client.get("/no-such-page")).status_code == 404
    assert asked


@pytest.mark.parametrize("name", names())
def test_a_pod_has_longer_to_stop_than_its_process_takes(name: str) -> None:
    here = overlay(name)
    for workload in here.ours():
        if workload.component in ("service", "gateway"):
            told = here.settings(workload)
            takes = float(told["DRAIN"]) + float(told["GRACE"]) + service._SETTLE
            assert workload.spec["terminationGracePeriodSeconds"] > takes
            starting = workload.app["startupProbe"]
            assert starting["periodSeconds"] * starting["failureThreshold"] > float(told["START_PATIENCE"])


@pytest.mark.parametrize("name", names())
def test_who_hears_events_scales_on_those_that_wait(name: str) -> None:
    here = overlay(name)
    heard = set()
    for scaler in here.of("HorizontalPodAutoscaler"):
        workload = here.workloads[scaler["spec"]["scaleTargetRef"]["name"]]
        external = [
            metric["external"]["metric"] for metric in scaler["spec"]["metrics"] if "external" in metric
        ]
        assert {metric["name"] for metric in external} <= {"event_consumer_pending"}
        terms = [term for metric in external for term in metric["selector"]["matchExpressions"]]
        consumers = {value for term in terms if term["key"] == "consumer" for value in term["values"]}
        assert consumers == durables(workload.module)
        heard |= consumers
    assert heard


def test_the_operations_of_production_are_what_their_hashes_say_and_fit_the_schema() -> None:
    file = ROOT / PROD / "trusted-documents.json"
    trusted = read_trusted(str(file))
    documents = Documents(schema(), Limits(), trusted)
    for key in trusted:
        assert documents.prepare(None, key).document
    assert len(trusted) > 20
