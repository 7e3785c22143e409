"""The hub as an ASGI application."""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Any

from litestar import Litestar, Response, Router, get
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp, Message, Scope

from edgeloop_contract.errors import EdgeloopError
from edgeloop_hub.alerts import watch
from edgeloop_hub.api import devices as device_api
from edgeloop_hub.api import metrics
from edgeloop_hub.api import samples as sample_api
from edgeloop_hub.api import workstation as api
from edgeloop_hub.api.enrolment_tokens import EnrolmentTokensApi
from edgeloop_hub.api.fair_share import FairShare
from edgeloop_hub.api.groups import Groups
from edgeloop_hub.api.marks import Marks
from edgeloop_hub.api.short_reports import ShortReports
from edgeloop_hub.api.signed_jobs import SignedJobs
from edgeloop_hub.auth import people, sign_in_settings
from edgeloop_hub.auth.oidc.provider import Provider
from edgeloop_hub.http import error_responses, tracing
from edgeloop_hub.http.connection_limits import ENVIRONMENT
from edgeloop_hub.hub import Hub
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage import device_rows
from edgeloop_hub.tails.api import TailServer, TailService
from edgeloop_hub.web import (
    alert_pages,
    annotation_pages,
    device_pages,
    drift_pages,
    fleet_pages,
    group_pages,
    live,
    oidc_pages,
    pages,
    people_pages,
    rollout_pages,
    sample_pages,
    sign_in,
    version_pages,
)
from edgeloop_hub.web.page import not_found

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self';"
        " frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MAX_FORM_BYTES = 64 << 10
PAGES: tuple[Any, ...] = (
    alert_pages, fleet_pages, group_pages, device_pages, rollout_pages, version_pages, drift_pages, pages, live, people_pages,
    sign_in, oidc_pages, sample_pages,
)  # fmt: skip
WORKSTATION = (api.Workstation, EnrolmentTokensApi, Marks, Groups, SignedJobs, TailServer)
MAX_ANNOTATION_BYTES = 2 << 20  # of a form with masks
LOG = logging.getLogger("edgeloop_hub")


@get("/healthz", sync_to_thread=True, tags=["health"])
def healthy(state: State) -> Response[dict[str, str]]:
    """Whether the database answers."""
    fine = state.hub.database.is_there()
    return Response({"status": "ok" if fine else "the database does not answer"}, status_code=200 if fine else 503)


def build(hub: Hub) -> Litestar:
    """All routes over one hub. Devices that an earlier release enrolled get their rows.

    Raises UsageError for a faulty sign-in.toml.
    """
    sign_in_by = sign_in_settings.load(hub.settings.data)
    provider = Provider(sign_in_by, sign_in_by.oidc, hub.settings.data) if sign_in_by.oidc else None
    device_rows.adopt(hub.database)
    with hub.database.writing() as database:
        people.adopt(database)
    traces = tracing.tracing(hub.settings.traces, hub.database.engine)
    bearer = SecurityScheme(type="http", scheme="bearer", description="a device's credential, or a token of edgeloop-hub token api")
    told = {"hub": hub, "service": TailService(hub), "changes": live.Changes(), "sign_in": sign_in_by, "provider": provider}
    return Litestar(
        route_handlers=[
            healthy,
            metrics.metrics,
            _up_to(hub.settings.max_message_bytes, device_api.Devices),
            _up_to(hub.settings.max_part_bytes, *WORKSTATION, *sample_api.HANDLERS),
            _up_to(MAX_FORM_BYTES, *(route for module in PAGES for route in module.HANDLERS)),
            _up_to(MAX_ANNOTATION_BYTES, *annotation_pages.HANDLERS),
        ],
        state=State(told | device_api.together(hub)),
        request_max_body_size=MAX_FORM_BYTES,
        openapi_config=OpenAPIConfig(
            title="edgeloop hub",
            version="1",
            components=Components(security_schemes={"bearer": bearer}),
            security=[{"bearer": []}],
            render_plugins=[JsonRenderPlugin()],
        ),
        lifespan=[partial(watch.beside, hub)],
        exception_handlers={**error_responses.HANDLERS, NotFoundException: not_found},
        plugins=traces.plugins,
        on_shutdown=traces.stop,
        before_send=[_add_headers],
        after_exception=[_log],
        debug=False,
    )


def _up_to(most_bytes: int, *handlers: Any) -> Router:
    """Routes whose request bodies have at most so many bytes."""
    return Router("/", route_handlers=handlers, request_max_body_size=most_bytes)


async def _add_headers(message: Message, scope: Scope) -> None:
    """Add the security headers to every answer, errors too; and when to come again, where something is away."""
    if message["type"] == "http.response.start":
        there = {name.lower() for name, _ in message["headers"]}
        away = {"Retry-After": str(error_responses.AWAY_SECONDS)} if message["status"] == 503 else {}
        headers = [(name.lower().encode(), value.encode()) for name, value in {**SECURITY_HEADERS, **away}.items()]
        more = [(name, value) for name, value in headers if name not in there]
        message["headers"] = [*message["headers"], *more]


async def _log(error: Exception, scope: Scope) -> None:
    """Log a mistake of the hub with its traceback; a client's mistake is not logged."""
    if not isinstance(error, (HTTPException, EdgeloopError, *error_responses.UNREADABLE)):
        LOG.error("%s %s", scope.get("method"), scope.get("path"), exc_info=error)


def from_environment() -> ASGIApp:
    """For uvicorn's workers: settings as `edgeloop-hub serve` left them. Where requests are traced all go through the framework."""
    import msgspec

    settings = msgspec.json.decode(os.environ[ENVIRONMENT], type=Settings, dec_hook=lambda kind, value: kind(value))
    app = build(Hub.open(settings))
    inner: Any = app if settings.traces else ShortReports(app, SECURITY_HEADERS)
    return FairShare(inner, app.state.known, settings)
