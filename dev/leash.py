"""Runs a command that dies with its starter: `python -I dev/leash.py PARENT_PID COMMAND…`.

On Linux the kernel kills the command when the starter is gone, however it went (PR_SET_PDEATHSIG survives the
exec below); elsewhere only the starter's own clean-up stops it. It is a program of its own as a hook between
fork and exec is unsafe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def leashed(command: list[str]) -> list[str]:
    """The command so that it dies with this process; more exactly with the thread that starts it."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    """Ties this process to its parent, then becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was told
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
