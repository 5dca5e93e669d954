"""No number among the settings can overflow what it is used for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from pydantic import ValidationError

SETTINGS = (
    *("identity.bootstrap:IdentitySettings", "catalog.bootstrap:CatalogSettings"),
    *("dossier.bootstrap:DossierSettings", "payment.settings:Settings"),
    *("notify.bootstrap:NotifySettings", "gateway.settings:GatewaySettings"),
)


@pytest.mark.proof("9.12")
@pytest.mark.parametrize("name", SETTINGS)
def test_no_number_is_without_end(name: str) -> None:
    module, _, kind = name.partition(":")
    settings: Any = getattr(import_module(module), kind)
    numbers = [field for field, info in settings.model_fields.items() if info.annotation in (int, float)]
    assert numbers
    for field in numbers:
        for value in ("inf", "-inf", "nan", "1e300", "9" * 30):
            try:
                settings(**{field: value})
            except ValidationError as error:
                assert [each["loc"] for each in error.errors()] == [(field,)]  # noqa: PT017
            else:
                pytest.fail(f"{field} may be {value}")
