"""Object storage: the same promises on a folder and on a real S3 server."""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Iterator

import pytest

from dossier.objects import Objects, open_objects
from kit.errors import Unavailable

MB = 2**20
both = pytest.mark.parametrize("object_store_url", ["folder", "s3"], indirect=True)


@pytest.fixture
def objects(object_store_url: str) -> Objects:
    return open_objects(object_store_url)


async def whole(objects: Objects, key: str, size: int) -> bytes:
    return b"".join([piece async for piece in objects.read(key, 0, size)])


@both
async def test_parts_become_one_object_that_is_read_by_range(objects: Objects) -> None:
    data = random.Random(3).randbytes(13 * MB + 17)  # noqa: S311
    parts = []
    for start in range(0, len(data), 4 * MB):
        parts.append(f"uploads/u1/{start:012d}")
        await objects.put(parts[-1], data[start : start + 4 * MB])
    file = await objects.assemble(parts, "staging/u1")
    assert (file.sha256, file.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert file.head == data[:65536]
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


@both
@pytest.mark.parametrize("size", [1, 5 * MB - 1, 5 * MB, 5 * MB + 1, 10 * MB])
async def test_a_file_of_any_size_is_put_together_whole(objects: Objects, size: int) -> None:
    """5 MiB is the least that S3 takes as a part of a file: one, two or none of them."""
    data = random.Random(size).randbytes(size)  # noqa: S311
    await objects.put("uploads/u1/0", data)
    file = await objects.assemble(["uploads/u1/0"], "staging/u1")
    assert file.size == size
    assert await whole(objects, "staging/u1", size) == data


@both
async def test_what_could_not_be_put_together_is_not_there_and_does_not_replace(objects: Objects) -> None:
    await objects.put("uploads/u3/0", bytes(6 * MB))  # so much that S3 has a part already
    await objects.put("staging/u3", b"before")
    with pytest.raises(FileNotFoundError):
        await objects.assemble(["uploads/u3/0", "uploads/u3/gone"], "staging/u3")
    assert await whole(objects, "staging/u3", 6) == b"before"
    with pytest.raises(FileNotFoundError):
        await objects.assemble(["uploads/u3/0", "uploads/u3/gone"], "staging/u4")
    assert await objects.modified("staging/u4") is None


@both
async def test_what_is_not_there_is_told_as_such(objects: Objects) -> None:
    await objects.put("uploads/u5-long/0", b"x")
    with pytest.raises(FileNotFoundError):
        await whole(objects, "uploads/u5", 1)
    with pytest.raises(FileNotFoundError):
        await objects.move("staging/never", "sha256/never")
    assert [item.key async for item in objects.list("uploads/u5")] == [], "a prefix is a folder, not a start"
    await objects.delete(["uploads/u5", *(f"uploads/never-{i}" for i in range(40))])


@both
async def test_an_object_is_replaced_whole(objects: Objects) -> None:
    await objects.put("sha256/cd/x", b"one")
    await objects.put("sha256/cd/x", b"two and more")
    assert b"".join([piece async for piece in objects.read("sha256/cd/x", 0, 12)]) == b"two and more"
    await objects.check()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


async def test_a_store_that_is_not_there_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, s3: dict[str, str]
) -> None:
    for name, value in {**s3, "AWS_ENDPOINT": f"http://127.0.0.1:{closed_port()}"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="error sending request"):
        await open_objects("s3://vault").put("uploads/x", b"x")


async def test_a_store_that_stays_silent_is_waited_for_as_long_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, s3: dict[str, str], silent_port: int
) -> None:
    silent = {"AWS_ENDPOINT": f"http://127.0.0.1:{silent_port}", "AWS_TIMEOUT": "100ms"}
    for name, value in {**s3, **silent}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="object storage fails"):
        await open_objects("s3://vault").put("uploads/x", b"x")


async def test_a_refusal_gives_its_reason_and_no_credentials(
    monkeypatch: pytest.MonkeyPatch, s3: dict[str, str]
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    await open_objects("s3://vault").put("uploads/x", b"x")
    with pytest.raises(Unavailable, match="404 NoSuchBucket"):
        await open_objects("s3://nothing-here/x").check()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    stranger = open_objects("s3://vault")
    for call in (stranger.check(), stranger.put("uploads/x", b"x"), whole(stranger, "uploads/x", 1)):
        with pytest.raises(Unavailable, match="403 SignatureDoesNotMatch") as refused:
            await call
        told = str(refused.getrepr(chain=True))
        assert "motcua-tests" not in told
        assert refused.value.__suppress_context__, "a log of it shall not have what S3 answered"


@pytest.mark.parametrize(
    "url", ["s3://AKID:sekrit@vault/x", "s3://vault/x?secret=sekrit", "s3:///sekrit", "gs://sekrit", "sekrit"]
)
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"file:///folder|AWS_") as refused:
        open_objects(url)
    assert "sekrit" not in str(refused.value)
