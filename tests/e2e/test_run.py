"""`make run` as a person starts and stops it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.options import HOST, PORTS, ROOT, choose_ports
from dev.stack import find

Eventually = Callable[..., Awaitable[Any]]


class Run:
    """One `python -m dev.run`, with what it has said so far."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.data = data
        self._output = folder / "output"
        own = {f"{name.upper()}_PORT" for name in PORTS} | {"ENVIRONMENT"}
        environment = {name: value for name, value in os.environ.items() if name not in own}
        ports = {"GATEWAY_PORT": str(choose_ports({})["gateway"]), "DATA_DIR": str(data)}
        with open(self._output, "wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dev.run"],
                cwd=ROOT,
                env=environment | ports,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._output.read_text()

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.said
        return "\nready\n" in self.said

    def pids(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.data / "stack.json").read_text())["pids"]
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    """Starts `make run` on the same data each time; ends what a failed test left."""
    started: list[Run] = []

    def begin(name: str) -> Run:
        (tmp_path / name).mkdir()
        started.append(Run(tmp_path / name, tmp_path / "data"))
        return started[-1]

    yield begin
    for run in started:
        if run.process.poll() is None:
            run.process.kill()  # the parts die with it
            run.process.wait()


def all_gone(pids: dict[str, int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids.values())


async def test_it_starts_serves_refuses_a_second_and_stops_everything_then_finds_its_data_again(
    start: Callable[[str], Run], eventually: Eventually
) -> None:
    run = start("first")
    await eventually(run.is_ready, within=90)
    where = find(run.data)
    assert where is not None
    assert where.graphql in run.said
    assert httpx.get(f"{where.gateway}/status").status_code == 200
    answer = httpx.post(where.graphql, json={"query": "{ procedures(first: 1) { nodes { code } } }"}).json()
    assert answer["data"]["procedures"]["nodes"], answer

    second = start("second")
    assert second.process.wait(30) == 2
    assert re.fullmatch(
        rf"run: a stack already runs on .+ \(process {run.process.pid}, at .+\)\n", second.said
    )

    pids = run.pids()
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(40) == 0, run.said
    assert all_gone(pids)
    assert find(run.data) is None

    again = start("again")
    await eventually(again.is_ready, within=90)
    assert re.search(r"catalogue: .* 0 created, 0 updated", again.said)
    pids = again.pids()
    os.kill(pids["payment"], signal.SIGKILL)
    assert again.process.wait(40) == 1
    assert "payment was killed by SIGKILL; its last lines:" in again.said
    assert all_gone(pids)


async def test_the_parts_do_not_outlive_a_runner_that_is_killed(
    start: Callable[[str], Run], eventually: Eventually
) -> None:
    run = start("killed")
    await eventually(lambda: (run.data / "logs" / "gateway.log").exists(), within=90)
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    run.process.kill()
    run.process.wait()
    await eventually(lambda: all_gone({pid: int(pid) for pid in children}))


def test_a_busy_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "dev.run"],
            cwd=ROOT,
            env={**os.environ, "GATEWAY_PORT": port, "DATA_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"run: port {port} is busy; GATEWAY_PORT=… gives the gateway another one\n"


def test_a_setting_that_a_part_refuses_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dev.run"],
        cwd=ROOT,
        env={
            **os.environ,
            "GATEWAY_PORT": str(choose_ports({})["gateway"]),
            "DATA_DIR": str(tmp_path),
            "LOG_LEVEL": "loud",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"run: [\w.]+: bad setting: LOG_LEVEL: .+\n", done.stderr)
