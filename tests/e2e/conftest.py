"""One whole stack for all e2e tests of a session, as `make run` would start it, on free ports."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dev.options import private
from dev.stack import Stack


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A running stack with the catalogue: `.addresses.graphql`, `.sandbox`, `.mail_folder` and so on.

    `await stack.kill(name)` ends a part as a crash would, `await stack.restart(name)` brings it back; a test
    that kills a part brings it back itself, because others use the same stack.
    """
    async with Stack(private(tmp_path_factory.mktemp("stack"))) as running:
        yield running
        dead = running.dead()
        assert not dead, running.obituary(dead)
