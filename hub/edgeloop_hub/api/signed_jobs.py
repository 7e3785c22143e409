"""The HTTP interface for signed jobs: the workstation signs and sends them, and sees what devices made of them."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Request, delete, get, post
from litestar.datastructures import State
from litestar.params import Parameter

from edgeloop_contract.signed_jobs import JobAsked, SignedJob, SignedJobStatus, SignedJobSummary
from edgeloop_hub.auth import audit
from edgeloop_hub.auth.guards import client_of, is_workstation, token_name
from edgeloop_hub.fleet import signed_jobs
from edgeloop_hub.http.error_responses import documents_errors

Asked = Request[Any, Any, Any]
Number = Annotated[int, Parameter(ge=0, le=2**53)]


@documents_errors(400, 401, 403, 503)
class SignedJobs(Controller):
    """For the workstation: jobs for devices."""

    path = "/api/v1"
    guards = [is_workstation]
    tags = ["workstation"]

    @get("/signed-jobs", sync_to_thread=True)
    def jobs(self, state: State) -> list[SignedJobSummary]:
        """The newest hundred, the newest first."""
        with state.hub.database.reading() as database:
            return signed_jobs.summaries(database)

    @post("/signed-jobs", scope="operate", sync_to_thread=True, status_code=201)
    def send(self, data: SignedJob, state: State, request: Asked) -> SignedJobSummary:
        """Give a signed job to its devices."""
        with state.hub.database.writing() as database:
            order = signed_jobs.accept(database, data, token_name(request))
            subject = f"{len(order.devices)} devices" if len(order.devices) > 1 else order.devices[0]
            detail = f"{order.kind} {order.target}, number {order.number}: {', '.join(order.devices)}"
            audit.append(database, token_name(request), "job signed", subject, detail, client_of(request))
            return SignedJobSummary(
                order.number, order.kind, order.target, order.expires, token_name(request), len(order.devices), len(order.devices)
            )

    @get("/signed-jobs/{number:int}", sync_to_thread=True)
    def job(self, number: Number, state: State) -> SignedJobStatus:
        """What each device made of it."""
        with state.hub.database.reading() as database:
            return signed_jobs.status(database, number)

    @get("/job-wishes", sync_to_thread=True)
    def wishes(self, state: State) -> list[JobAsked]:
        """What people asked for on pages, and nobody has signed yet."""
        with state.hub.database.reading() as database:
            return signed_jobs.wishes(database)

    @delete("/job-wishes/{which:str}", scope="operate", sync_to_thread=True, status_code=200)
    def forget(self, which: Annotated[str, Parameter(max_length=20)], state: State, request: Asked) -> None:
        """It was signed, or nobody wants it any more."""
        with state.hub.database.writing() as database:
            signed_jobs.forget_wish(database, which)
            audit.append(database, token_name(request), "job wish removed", which, address=client_of(request))
