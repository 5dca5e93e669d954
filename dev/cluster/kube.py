"""kubectl, bound to one context and one namespace."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from typing import Any

from dev.options import Problem, tool

JSON = dict[str, Any]
SECONDS = 60.0  # that one question to the API server may take
LOG = re.compile(r"[EIW]\d{4} ")  # lines of kubectl's own log, which say the same at length
FIELD_MANAGER = "motcua"


class Refused(Problem):
    """The API server, or kubectl, refused; the text is what it said."""


@dataclass(frozen=True)
class Kubectl:
    """Runs kubectl. An empty `context` is kubectl's current one."""

    namespace: str = "motcua"
    context: str = ""
    program: str = field(default_factory=lambda: tool("kubectl"))

    def command(self, *arguments: str) -> list[str]:
        """The command line of a call."""
        where = ["--context", self.context] if self.context else []
        return [self.program, *where, "--namespace", self.namespace, *arguments]

    def __call__(self, *arguments: str, input: str | None = None, seconds: float = SECONDS) -> str:
        """What kubectl prints. Raises Refused with what it complains about.

        Manifests go through `input`, so that no value is ever on a command line.
        """
        try:
            done = subprocess.run(
                self.command(*arguments), input=input, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise Refused(f"kubectl {arguments[0]}: no answer within {seconds:.0f} s") from None
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if not LOG.match(line)]
            raise Refused("\n".join(said).strip() or f"kubectl {arguments[0]} ended with {done.returncode}")
        return done.stdout

    def get(self, *arguments: str) -> list[JSON]:
        """Objects of the namespace: `get("pods", "-l", "app.kubernetes.io/name=dossier")`."""
        return list(json.loads(self("get", *arguments, "-o", "json"))["items"])

    def find(self, kind: str, name: str) -> JSON | None:
        """One object, or None when there is none."""
        text = self("get", kind, name, "--ignore-not-found", "-o", "json")
        return dict(json.loads(text)) if text.strip() else None

    def server(self) -> tuple[int, int]:
        """Version of the API server, such as (1, 33). Raises Refused when it does not answer."""
        version = json.loads(self("version", "-o", "json"))["serverVersion"]
        return int(version["major"]), int(version["minor"].rstrip("+"))

    def current_context(self) -> str:
        """The context that calls go to. Raises Problem when there is none."""
        if self.context:
            return self.context
        try:
            return self("config", "current-context").strip()
        except Refused:
            raise Problem("kubectl has no current context: set KUBECONFIG or CONTEXT=<name>") from None
