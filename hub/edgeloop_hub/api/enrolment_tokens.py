"""The HTTP interface for tokens with which several devices enrol."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Request, post
from litestar.datastructures import State
from sqlalchemy import select

from edgeloop_contract.enrolment_tokens import EnrolmentTokens, EnrolmentTokensRequest
from edgeloop_contract.errors import DataError
from edgeloop_hub.auth import accounts, audit
from edgeloop_hub.auth.guards import client_of, is_workstation, token_name
from edgeloop_hub.http.error_responses import documents_errors
from edgeloop_hub.storage.schema import devices


@documents_errors(400, 401, 403, 503)
class EnrolmentTokensApi(Controller):
    """For the workstation: tokens for new devices."""

    path = "/api/v1/tokens"
    guards = [is_workstation]
    tags = ["workstation"]

    @post("/enrol", scope="admin", sync_to_thread=True, status_code=200)
    def make(self, data: EnrolmentTokensRequest, state: State, request: Request[Any, Any, Any]) -> EnrolmentTokens:
        """A token for each of these names, for one enrolment. Names that a device has are refused: its credential would end."""
        hub = state.hub
        with hub.database.writing() as database:
            taken = database.execute(select(devices.c.name).where(devices.c.name.in_(data.devices)).limit(1)).scalar()
            if taken is not None:
                raise DataError(f"there is a device {taken} already; choose other names")
            seconds = hub.settings.token_seconds
            made = [accounts.make_token(database, "enrol", name, list(data.labels), seconds) for name in data.devices]
            few = f"{data.devices[0]} and {len(made) - 1} more"
            audit.append(database, token_name(request), "enrol tokens made", few[:63], data.why, client_of(request))
        return EnrolmentTokens(made)
