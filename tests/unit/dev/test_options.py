import socket
import stat
from pathlib import Path

import pytest

from dev.options import HOST, PORTS, Problem, choose_ports, from_environment, private, secret


def test_every_part_gets_a_port_of_its_own() -> None:
    ports = choose_ports({})
    assert set(ports) == set(PORTS)
    assert len(set(ports.values())) == len(PORTS)


def test_a_wanted_port_is_kept() -> None:
    ports = choose_ports({})
    assert choose_ports({"gateway": ports["gateway"]})["gateway"] == ports["gateway"]


def test_a_busy_port_is_told_with_the_setting_that_moves_it() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Problem, match=rf"port {port} is busy; GATEWAY_PORT"):
            choose_ports({"gateway": port})


def test_two_parts_cannot_have_the_same_port() -> None:
    with pytest.raises(Problem, match="same port"):
        choose_ports({"gateway": 20123, "mail": 20123})


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"GATEWAY_PORT": "http"}, "GATEWAY_PORT is 'http'"),
        ({"NATS_PORT": "70000"}, "NATS_PORT is '70000'"),
        ({"ENVIRONMENT": "staging"}, "ENVIRONMENT is 'staging'"),
        ({"MONGODB_URL": "localhost"}, "MONGODB_URL does not begin"),
    ],
)
def test_a_bad_setting_is_one_clear_line(environ: dict[str, str], line: str) -> None:
    with pytest.raises(Problem) as told:
        from_environment(environ)
    assert line in str(told.value)
    assert "\n" not in str(told.value)


def test_production_refuses_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Problem, match="needs a real MongoDB"):
        from_environment({"ENVIRONMENT": "production", "GATEWAY_PORT": "20124"})


def test_a_private_stack_brings_no_demo_accounts_to_production(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="demo accounts"):
        private(tmp_path, {"ENVIRONMENT": "production", "MONGODB_URL": "mongodb://db"})


def test_a_private_stack_has_its_own_folder_and_the_store_that_is_set(tmp_path: Path) -> None:
    options = private(tmp_path, {"MONGODB_URL": "mongodb://db"})
    assert (options.data, options.mongodb_url) == (tmp_path, "mongodb://db")


def test_a_secret_is_made_once_and_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = secret(folder, "vnpay")
    assert len(made) > 40
    assert secret(folder, "vnpay") == made
    assert secret(folder, "other") != made
    assert stat.S_IMODE((folder / "vnpay").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
