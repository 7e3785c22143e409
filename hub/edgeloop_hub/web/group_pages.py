"""The page of groups: who is in each, its channel, its maintenance windows, and what a person may change."""

from __future__ import annotations

import time
from typing import Any

from litestar import Controller, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.response import Redirect

from edgeloop_contract.device_groups import GroupRequest
from edgeloop_contract.errors import UsageError
from edgeloop_contract.signed_jobs import JobWish
from edgeloop_hub.auth import audit
from edgeloop_hub.auth.accounts import checked_name
from edgeloop_hub.auth.guards import client_of
from edgeloop_hub.fleet import signed_jobs
from edgeloop_hub.groups import pins, store
from edgeloop_hub.updates import registry
from edgeloop_hub.web.page import ERROR_PAGES, Form, PageRequest, check_form, is_person, page, session_of

MAX_SHOWN = 20  # names of a group
TARGETS_SHOWN = 100  # bundles to pin to


class GroupPages(Controller):
    """Behind a sign-in."""

    path = "/groups"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get(sync_to_thread=True)
    def groups(self, state: State, request: PageRequest) -> Response[bytes]:
        now = time.time()
        with state.hub.database.reading() as database:
            found = [
                (one, store.count(database, one), store.named_devices(database, one.name), store.state_words(one, now))
                for one in store.listed(database)
            ]
            by_group: dict[str, list[pins.GroupPin]] = {}
            for pin in pins.listed(database):
                by_group.setdefault(pin.group, []).append(pin)
            targets = registry.newest_targets(database, TARGETS_SHOWN)
        return page("groups.html.j2", "Groups", request, groups=found, shown=MAX_SHOWN, pins=by_group, targets=targets)

    @get("/{name:str}/{verb:str}", sync_to_thread=True)
    def ask_first(self, name: str, verb: str, request: PageRequest) -> Response[bytes]:
        if verb != "delete":
            raise NotFoundException("There is no such page.")
        return page(
            "confirm.html.j2", f"Delete the group {name[:63]}?", request, section="Groups", action=f"/groups/{name}/delete",
            button="Delete", back="/groups", lines=[
                "Its devices stay. Its channel and windows hold for them no more.",
                "A rollout to this group reaches no further device.",
            ],
        )  # fmt: skip

    @post("/{name:str}/{verb:str}", role="operator", sync_to_thread=True)
    def act(self, name: str, verb: str, data: Form, state: State, request: PageRequest) -> Response[Any]:
        """`name`: of the group; `new` for one whose name the form says."""
        check_form(request, data)
        if verb not in ("set", "delete", "job", "pin", "unpin"):
            raise NotFoundException("There is no such button.")
        if verb == "delete" and data.get("sure") != "yes":
            return Redirect(f"/groups/{checked_name(name, 'group')}/delete", status_code=303)
        who, address = session_of(request).user, client_of(request)
        with state.hub.database.writing() as database:
            if verb == "set":
                asked, chosen = _asked(data), data.get("name", "") if name == "new" else name
                if name == "new" and any(group.name == chosen for group in store.listed(database)):
                    raise UsageError(f"there is a group {chosen} already; change that one")
                store.save(database, chosen, asked, who)
                audit.append(database, who, "group set", chosen, store.words(asked), address)
            elif verb in ("pin", "unpin"):
                act = pins.pin if verb == "pin" else pins.unpin
                said = data.get("target", "") if verb == "pin" else data.get("model", "")
                act(database, name, said, who)
                audit.append(database, who, f"group {verb}", name, said, address)
            elif verb == "job":
                kind = data.get("kind", "")
                if kind not in ("logs", "restart"):
                    raise NotFoundException("There is no such job.")
                signed_jobs.wish(database, JobWish(kind, group=name), who)  # type: ignore[arg-type]
                audit.append(database, who, "group job", name, kind, address)
            else:
                store.remove(database, name, who)
                audit.append(database, who, "group deleted", name, address=address)
        return Redirect("/groups", status_code=303)


def _asked(form: dict[str, str]) -> GroupRequest:
    windows = [line.strip() for line in form.get("windows", "").splitlines() if line.strip()]
    devices = form.get("devices", "").replace(",", " ").split()
    return GroupRequest(
        form.get("tags", "").strip(), devices, form.get("channel", "").strip(), windows, form.get("time_zone", "").strip() or "UTC"
    )


HANDLERS = (GroupPages,)
