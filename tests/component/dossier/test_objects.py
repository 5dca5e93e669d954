"""Object storage on a folder, and on a real S3 server where one is found (SeaweedFS's `weed`)."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dossier.objects import Objects, open_objects
from kit.errors import Unavailable

MB = 2**20


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    weed = shutil.which("weed")
    if weed is None:
        pytest.skip("no S3 server here: SeaweedFS's `weed` is not on the path")
    home = tmp_path_factory.mktemp("s3")
    names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [weed, "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={home}"]
    command += ["-master.telemetry=false", "-volume.max=10", "-master.volumeSizeLimitMB=64"]
    command += [
        f"-{part}.port{'.grpc' * bool(grpc)}={port}"
        for (part, _, grpc), port in ((name.partition("."), port) for name, port in ports.items())
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"{endpoint}/vault", method="PUT")  # noqa: S310
                urllib.request.urlopen(request, timeout=5).close()  # noqa: S310
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail((home / "log").read_text()[-2000:])
                time.sleep(0.2)
        before = dict(os.environ)
        os.environ |= {
            "AWS_ENDPOINT": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_SKIP_SIGNATURE": "true",
        }
        yield "s3://vault/motcua"
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
    finally:
        process.kill()  # its data are the test's; it takes long to part from them
        process.wait()


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return open_objects((tmp_path / "made when missing").as_uri())
    return open_objects(request.getfixturevalue("s3_url"))


async def test_parts_become_one_object_that_is_read_by_range(objects: Objects) -> None:
    data = random.Random(3).randbytes(13 * MB + 17)  # noqa: S311
    parts = []
    for start in range(0, len(data), 4 * MB):
        parts.append(f"uploads/u1/{start:012d}")
        await objects.put(parts[-1], data[start : start + 4 * MB])
    file = await objects.assemble(parts, "staging/u1")
    assert (file.sha256, file.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (file.head, file.tail) == (data[:65536], data[-65536:])
    await objects.move("staging/u1", "sha256/ab/abcd")
    await objects.move("sha256/ab/abcd", "sha256/ab/efgh")
    for offset, length in ((0, 10), (4 * MB - 3, 7), (len(data) - 5, 5), (0, len(data))):
        pieces = [piece async for piece in objects.read("sha256/ab/efgh", offset, length)]
        assert b"".join(pieces) == data[offset : offset + length]
        assert max(map(len, pieces)) <= 256 * 1024
    assert {item.key async for item in objects.list("uploads")} == set(parts)
    await objects.delete([*parts, "uploads/u1/never"])
    assert [item async for item in objects.list("uploads")] == []
    assert await objects.modified("sha256/ab/abcd") is None
    assert await objects.modified("sha256/ab/efgh") is not None
    with pytest.raises(FileNotFoundError):
        await objects.assemble(["uploads/u1/gone"], "staging/u2")
    assert await objects.modified("staging/u2") is None, "a file that could not be put together is not there"


async def test_an_object_is_replaced_whole(objects: Objects) -> None:
    await objects.put("sha256/cd/x", b"one")
    await objects.put("sha256/cd/x", b"two and more")
    assert b"".join([piece async for piece in objects.read("sha256/cd/x", 0, 12)]) == b"two and more"
    await objects.check()


async def test_a_store_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    for name, value in {
        "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_SKIP_SIGNATURE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable):
        await open_objects("s3://vault").put("uploads/x", b"x")
