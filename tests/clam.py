"""ClamAV's daemon with signatures of our own, on a port of its own."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.needs import missing

EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
OURS = b"motcua-a-harmful-sample"
PATIENCE = 60.0  # seconds that a start may take


class Clam:
    """The daemon; `start` and `stop` as often as a test likes, always at the same port."""

    def __init__(self, home: Path, port: int) -> None:
        self._program = shutil.which("clamd") or missing("clamd is not there (apt-get install clamav-daemon)")
        self._home = home
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        signatures = home / "signatures"
        signatures.mkdir(parents=True)
        # Name, any kind of file, any place in it, the bytes in hexadecimal.
        lines = [f"Eicar-Test:0:*:{EICAR.hex()}", f"Motcua.Sample:0:*:{OURS.hex()}", ""]
        (signatures / "ours.ndb").write_text("\n".join(lines))
        settings = {
            "Foreground": "yes",
            "DatabaseDirectory": signatures,
            "TCPSocket": port,
            "TCPAddr": "127.0.0.1",
            "LocalSocket": home / "socket",
            "User": getpass.getuser(),
            "TemporaryDirectory": home,
            "StreamMaxLength": "40M",
            "MaxFileSize": "40M",
            "MaxScanSize": "40M",
            "AlertExceedsMax": "yes",
            "MaxThreads": "4",
        }
        (home / "clamd.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._port}"

    @property
    def socket(self) -> str:
        return f"unix://{self._home}/socket"

    def start(self) -> None:
        """Returns when it answers."""
        if self._process is not None:
            return
        with (self._home / "log").open("ab") as log:
            command = [self._program, f"--config-file={self._home}/clamd.conf"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._home)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self._home / "log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), 1) as there:
                there.sendall(b"zPING\0")
                return there.recv(10).startswith(b"PONG")
        except OSError:
            return False
