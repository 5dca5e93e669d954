"""A whole stack that the chaos tests may break; nobody else uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dev.options import private
from dev.stack import Stack

# What a crash leaves to a timer comes due while a test watches, not minutes later.
IMPATIENT = {
    "DELIVERY_LEASE": "10",
    "DELIVERY_FIRST_PAUSE": "1",
    "PAYMENT_ASK_AFTER": "5",
    "PAYMENT_RETRY_AFTER": "1",
}


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A running stack with the catalogue. Whoever kills a part brings it back."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in IMPATIENT.items():
            environment.setenv(name, value)
        # Without MONGODB_URL: a store of its own, which can be killed and has nothing of others in it.
        async with Stack(private(tmp_path_factory.mktemp("chaos"), {})) as running:
            yield running
