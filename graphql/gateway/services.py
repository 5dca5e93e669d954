"""Channels to the five services and their stubs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from motcua.catalog.v1.catalog_pb2_grpc import CatalogServiceStub
from motcua.dossier.v1.dossier_pb2_grpc import DossierServiceStub
from motcua.dossier.v1.vault_pb2_grpc import VaultServiceStub
from motcua.identity.v1.identity_pb2_grpc import IdentityServiceStub
from motcua.notify.v1.notify_pb2_grpc import NotifyServiceStub
from motcua.payment.v1.payment_pb2_grpc import PaymentServiceStub

NAMES = ("identity", "catalog", "dossier", "payment", "notify")


class Services:
    """One channel a service, shared by all requests. `connect` makes a channel from a target."""

    def __init__(self, targets: dict[str, str], connect: Callable[[str], grpc.aio.Channel]) -> None:
        self.channels = {name: connect(targets[name]) for name in NAMES}
        self.identity: Any = IdentityServiceStub(self.channels["identity"])
        self.catalog: Any = CatalogServiceStub(self.channels["catalog"])
        self.dossier: Any = DossierServiceStub(self.channels["dossier"])
        self.vault: Any = VaultServiceStub(self.channels["dossier"])
        self.payment: Any = PaymentServiceStub(self.channels["payment"])
        self.notify: Any = NotifyServiceStub(self.channels["notify"])

    async def close(self) -> None:
        """Closes the channels; running calls end."""
        for channel in self.channels.values():
            await channel.close()
