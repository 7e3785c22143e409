"""The page of alerts: what is open, what has ended, which messages went where."""

from __future__ import annotations

from litestar import Controller, Response, get
from litestar.datastructures import State

from edgeloop_contract.errors import UsageError
from edgeloop_hub.alerts import cycle
from edgeloop_hub.alerts import settings as alert_settings
from edgeloop_hub.web.page import ERROR_PAGES, PageRequest, is_person, page

ENDED_SHOWN, MESSAGES_SHOWN = 30, 50


class AlertPages(Controller):
    """Behind a sign-in."""

    path = "/alerts"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get("/", sync_to_thread=True)
    def alerts(self, state: State, request: PageRequest) -> Response[bytes]:
        fault, channels = "", []
        try:
            channels = alert_settings.load(state.hub.settings.data).channel
        except UsageError as error:
            fault = str(error)
        with state.hub.database.reading() as database:
            there, ended = cycle.open_alerts(database), cycle.ended_alerts(database, ENDED_SHOWN)
            messages = cycle.messages(database, MESSAGES_SHOWN)
        there.sort(key=lambda alert: (-alert_settings.SEVERITIES.index(alert.severity), alert.began))
        return page(
            "alerts.html.j2", "Alerts", request, there=there, ended=ended, messages=messages, channels=channels, fault=fault
        )  # fmt: skip


HANDLERS = (AlertPages,)
