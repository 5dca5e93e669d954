"""`make setup`: the virtual environment of this checkout, as requirements.lock has it.

With LOCK FOLDER the environment of a tool that pins too much to share ours, without the project.

Runs on the system's own Python before anything is installed, so it imports the standard library only and is
written so that an older Python can still read it and say what is missing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (3, 11)


def fail(line):
    # type: (str) -> None
    """One clear line and exit code 2."""
    sys.stderr.write("setup: %s\n" % line)  # noqa: UP031
    sys.exit(2)


def digest(*parts):
    # type: (*bytes) -> str
    """SHA-256 over the parts, in hex."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def find_python():
    # type: () -> str
    """A Python that is new enough: this one, or another on the path."""
    if sys.version_info[:2] >= NEEDED:
        return sys.executable
    for name in ("python3.13", "python3.12", "python3.11", "python3.14"):
        path = shutil.which(name)
        if path and subprocess.call([path, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            return path
    fail("Python %d.%d or newer is needed; this is %s" % (NEEDED + (sys.version.split()[0],)))  # noqa: UP031, RUF005
    return ""


def find_uv():
    # type: () -> str
    """uv when the path has one that runs (a version manager's shim may not), else nothing."""
    path = shutil.which("uv")
    if (
        path
        and subprocess.call([path, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    ):
        return path
    return ""


def run(what, command):
    # type: (str, list[str]) -> None
    """Runs a step whose own output tells what went wrong."""
    print("setup: %s" % what, flush=True)  # noqa: UP031
    environment = {
        k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH")
    }
    if subprocess.call(command, cwd=str(ROOT), env=environment) != 0:
        fail("%s failed, see above" % what)  # noqa: UP031


def main(lock_name="requirements.lock", folder=".venv"):
    # type: (str, str) -> int
    """Makes or brings up to date the folder; does nothing when it already is."""
    lock, venv, ours = ROOT / lock_name, ROOT / folder, folder == ".venv"
    stamp = venv / "motcua.stamp"
    python = venv / "bin" / "python"
    locked = digest(lock.read_bytes(), str(venv).encode())
    project = digest((ROOT / "pyproject.toml").read_bytes()) if ours else "-"
    have = stamp.read_text().split() if stamp.exists() else []
    works = python.exists() and subprocess.call([str(python), "-c", ""], stderr=subprocess.DEVNULL) == 0
    if works and have == [locked, project]:
        return 0
    uv = find_uv()
    if not works:
        base = find_python()
        if uv:
            run("making " + folder, [uv, "venv", "--quiet", "--clear", "--python", base, str(venv)])
        else:
            run("making " + folder, [base, "-m", "venv", "--clear", str(venv)])
    if uv:
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        if subprocess.call([str(python), "-m", "pip", "--version"], stdout=subprocess.DEVNULL) != 0:
            run("adding pip", [str(python), "-m", "ensurepip"])
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--disable-pip-version-check",
        ]
    stamp.unlink(missing_ok=True)
    if not works or have[:1] != [locked]:
        run("installing " + lock_name, [*install, "--require-hashes", "-r", str(lock)])
    if ours:
        run("installing the project in place", [*install, "--no-deps", "--no-build-isolation", "-e", "."])
    stamp.write_text("%s %s\n" % (locked, project))  # noqa: UP031
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
