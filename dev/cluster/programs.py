"""Programs that the developer installs: a container engine and kind."""

from __future__ import annotations

import subprocess

from dev.options import Problem, tool

HINTS = {
    "docker": "install a Docker engine (docs.docker.com/engine/install), or podman with its docker command",
    "kind": "install it (kind.sigs.k8s.io), or use `make k8s-up` on a cluster that you have",
}


def run(program: str, *arguments: str) -> str:
    """What it prints. Raises Problem with the end of that when it fails, with a hint when it is missing."""
    try:
        path = tool(program)
    except Problem:
        raise Problem(f"{program} is missing: {HINTS[program]}") from None
    done = subprocess.run([path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        end = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise Problem(f"{program} {' '.join(arguments[:2])} failed:\n{end}")
    return done.stdout
