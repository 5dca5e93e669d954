"""Types that other modules of the schema refer to, so that they need not import each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import strawberry

if TYPE_CHECKING:
    from gateway.schema.catalog import Procedure
    from gateway.schema.dossier import Dossier
    from gateway.schema.identity import Account, Agency
    from gateway.schema.payment import Charge
    from gateway.schema.vault import Document

AccountRef = Annotated["Account", strawberry.lazy("gateway.schema.identity")]
AgencyRef = Annotated["Agency", strawberry.lazy("gateway.schema.identity")]
ChargeRef = Annotated["Charge", strawberry.lazy("gateway.schema.payment")]
DocumentRef = Annotated["Document", strawberry.lazy("gateway.schema.vault")]
DossierRef = Annotated["Dossier", strawberry.lazy("gateway.schema.dossier")]
ProcedureRef = Annotated["Procedure", strawberry.lazy("gateway.schema.catalog")]
