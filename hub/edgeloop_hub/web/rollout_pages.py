"""The pages of rollouts: how far one is, what it waits for, who is in it, and what its gates say."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from litestar import Controller, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from litestar.response import Redirect

from edgeloop_contract.errors import DataError
from edgeloop_contract.gate_messages import GateStatus
from edgeloop_contract.hub_messages import RolloutStatus
from edgeloop_hub import event_list, health
from edgeloop_hub.auth import audit
from edgeloop_hub.auth.guards import client_of
from edgeloop_hub.fleet import rollout_members, rollout_view
from edgeloop_hub.rollouts import rollout_store, service
from edgeloop_hub.time_text import duration
from edgeloop_hub.web.page import ERROR_PAGES, Form, PageRequest, check_form, is_person, page, query_link, session_of
from edgeloop_hub.web.plots import HEIGHT, WIDTH

EVENTS_SHOWN = 100
MIN_P = 1e-6  # at the upper edge of a drawing
Number = Annotated[int, Parameter(ge=0, le=2**31 - 1)]
Name = Annotated[str, Parameter(max_length=63)]


@dataclass(frozen=True)
class Soak:
    """Of the step that runs: how much of its soak time is over."""

    share: float
    left: str


@dataclass(frozen=True)
class Evolution:
    """`evidence`, `level`: points of SVG polylines, from 0 (p = 1) up to MIN_P; the gate is breached where evidence is above."""

    evidence: str
    level: str
    words: str
    looks: int


def soak_of(rollout: RolloutStatus, now: float) -> Soak | None:
    """None: there is none, or the rollout does not run."""
    if rollout.state != "running" or rollout.soak_seconds <= 0:
        return None
    left = min(max(0.0, rollout.step_began + rollout.soak_seconds - now), rollout.soak_seconds)
    return Soak(1 - left / rollout.soak_seconds, duration(left))


def evolution(gate: GateStatus) -> Evolution | None:
    """The looks of a gate, drawn over time. A look without a test found no difference worth one: p = 1. None: no look yet."""
    if not gate.looks:
        return None
    values = [math.log10(min(max(look.p if look.p is not None else 1.0, MIN_P), 1.0)) / math.log10(MIN_P) for look in gate.looks]
    levels = [math.log10(min(max(look.level, MIN_P), 1.0)) / math.log10(MIN_P) for look in gate.looks]
    step = WIDTH / max(1, len(values) - 1)
    places = [i * step for i in range(len(values))] if len(values) > 1 else [0.0]
    last = gate.looks[-1]
    seen = f"p = {last.p:.2g}" if last.p is not None else "no larger than tolerated"
    words = f"{len(values)} look{'s' if len(values) > 1 else ''}; at the last {seen}, and below {last.level:.2g} it is breached"
    drawn = [" ".join(f"{x:.1f},{HEIGHT * (1 - y):.1f}" for x, y in zip(places, line, strict=True)) for line in (values, levels)]
    return Evolution(drawn[0], drawn[1], words, len(values))


class RolloutPages(Controller):
    """Behind a sign-in."""

    path = "/rollouts"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get(sync_to_thread=True)
    def rollouts(self, state: State, request: PageRequest) -> Response[bytes]:
        with state.hub.database.reading() as database:
            rollouts, hub_health = service.summaries(database), health.current(database, state.hub.settings)
        return page("rollouts.html.j2", "Rollouts", request, rollouts=rollouts, health=hub_health)

    @get("/{number:int}", sync_to_thread=True)
    def rollout(
        self, number: Number, state: State, request: PageRequest, who: Literal["in", "late", "failed"] = "late", after: Name = ""
    ) -> Response[bytes]:
        """`who`: the devices that are listed, a page of them behind the name `after`."""
        members: tuple[list[rollout_members.Member], str] = ([], "")
        counts = {"in": 0, "failed": 0}
        with state.hub.database.reading(whole=True) as database:
            stored = cohort = None
            with contextlib.suppress(DataError):  # a plan that cannot be read: the page says so among the gates
                stored = rollout_store.find(database, number)
                members, counts = rollout_members.members(database, stored, who, after), rollout_members.counts(database, stored)
                cohort = rollout_members.cohort(database, stored)
            rollout, of_looks = rollout_view.of(database, number, stored, cohort)
            hub_health = health.current(database, state.hub.settings)
            events, _ = event_list.listed(database, rollout=number, limit=EVENTS_SHOWN)
        return page(
            "rollout.html.j2", f"Rollout {number}", request, section="Rollouts", rollout=rollout, events=events, health=hub_health,
            soak=soak_of(rollout, time.time()), who=who, members=members[0], following=members[1], after=after,
            counts=counts, late=cohort.late if cohort else 0, of_looks=of_looks, evolution=evolution,
            link=lambda **words: query_link(f"/rollouts/{number}", **words) + "#devices",
        )  # fmt: skip

    @get("/{number:int}/{verb:str}", sync_to_thread=True)
    def ask_first(self, number: Number, verb: str, state: State, request: PageRequest) -> Response[bytes]:
        if verb != "abort":
            raise NotFoundException("There is no such page.")
        with state.hub.database.reading() as database:
            target = next((r.target for r in service.summaries(database) if r.id == number), None)
        if target is None:
            raise NotFoundException(f"There is no rollout {number}.")
        return page(
            "confirm.html.j2", f"Abort rollout {number}?", request, section="Rollouts", action=f"/rollouts/{number}/abort",
            button="Abort", back=f"/rollouts/{number}", lines=[
                f"No device gets {target} any more, from now on.",
                "Devices that run it keep it: they take no older version, unless the new one is withdrawn.",
                "An aborted rollout cannot go on. To stop it for a while, pause it.",
            ],
        )  # fmt: skip

    @post("/{number:int}/{verb:str}", role="operator", sync_to_thread=True)
    def change(self, number: Number, verb: str, data: Form, state: State, request: PageRequest) -> Response[Any]:
        check_form(request, data)
        if verb not in service.VERBS:
            raise NotFoundException("There is no such button.")
        if verb == "abort" and data.get("sure") != "yes":
            return Redirect(f"/rollouts/{number}/abort", status_code=303)
        with state.hub.database.writing() as database:
            service.change(database, number, verb, session_of(request).user)
            audit.append(database, session_of(request).user, f"rollout {verb}", str(number), address=client_of(request))
        return Redirect(f"/rollouts/{number}", status_code=303)


HANDLERS = (RolloutPages,)
