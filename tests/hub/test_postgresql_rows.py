"""People, groups, windows and signed jobs on PostgreSQL, where their statements are other ones than on SQLite."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgeloop_contract.device_groups import GroupRequest
from edgeloop_contract.messages import JobResult
from edgeloop_contract.rollout import parse_steps
from edgeloop_contract.signed_jobs import JobOrder
from edgeloop_hub.auth import accounts, people
from edgeloop_hub.auth.oidc import pending
from edgeloop_hub.auth.oidc.accounts import admit
from edgeloop_hub.auth.oidc.id_token import Identity
from edgeloop_hub.auth.sign_in_settings import Oidc
from edgeloop_hub.fleet import finding, removal, signed_jobs
from edgeloop_hub.groups import store
from edgeloop_hub.rollouts import cohort, rollout_store
from edgeloop_hub.storage import device_rows
from edgeloop_pipeline.fleet.job_signing import sign
from hub_parts import NEW, Parts, parts
from hubs import running_hub
from programs import needs
from test_hub_stores import postgres

pytestmark = [pytest.mark.long, needs("postgresql")]


def test_rows_on_postgresql(tmp_path: Path) -> None:
    with postgres() as url:
        found = parts(tmp_path / "parts", database=url)
        found.device("one")
        found.device("two")
        found.bundle("new.edgeloop", NEW)
        device_rows.adopt(found.hub.database)
        _people(found)
        _groups_and_jobs(found)
        found.tick()
        found.hub.database.engine.dispose()
        with running_hub(tmp_path / "hub", "--database", url, keys=False) as hub:  # and its pages, which read rows piece by piece
            person = hub.signed_in("olga", "admin")
            for path in ("/rollouts/1", "/rollouts/1?who=in", "/groups", "/devices/one", "/people", "/audit", "/?group=g"):
                assert "olga" in person(path), path
            assert "entries, as they were written" in hub.run("audit", "verify")
            hub.run("audit", "export", tmp_path / "audit.jsonl")


def _people(found: Parts) -> None:
    with found.hub.database.writing() as database:
        accounts.add_user(database, "ada", "correct horse battery")
        people.keep_role(database, "ada", "admin")
        oidc = Oidc("https://id.example", "edgeloop")
        assert admit(database, oidc, Identity("subject", "lin@x.example", "viewer"), "") == "lin@x.example"
        people.set_role(database, "lin@x.example", "operator")
        assert [person.role for person in people.listed(database)] == ["admin", "operator"]
        people.remove(database, "lin@x.example")
        assert people.kept_out(database) == ["lin@x.example"]
        people.readmit(database, "lin@x.example")
        begun = pending.begin(database, "/")
    assert pending.take(found.hub.database, begun.state, begun.browser)
    assert not pending.take(found.hub.database, begun.state, begun.browser)


def _groups_and_jobs(found: Parts) -> None:
    with found.hub.database.writing() as database:
        asked = GroupRequest(tags="a and not b", devices=["two"], channel="beta", windows=["daily 00:00-24:00"])
        store.save(database, "g", asked, "ada")
        assert store.set_channel(database, "one", "night", "ada") == "night"
        assert store.members(database, store.find(database, "g")) == ["two"]
        assert finding.counts(database, finding.Filter(group="g"), time.time()).devices == 1
    number = found.rollout("new.edgeloop", parse_steps("group:g, 100%"))
    now = int(time.time() * 1000)
    with found.hub.database.writing() as database:
        assert cohort.members(database, rollout_store.find(database, number)).cohort == []
        signed_jobs.accept(database, sign(found.keys, JobOrder(now, "logs", ["two"], now / 1000 + 60)), "x")
        assert signed_jobs.waiting(database, "two", time.time()).number == now
        signed_jobs.answer(database, "two", JobResult(id=str(now), lines=["x"]), time.time())
        assert signed_jobs.status(database, now).devices[0].state == "done"
        assert signed_jobs.summaries(database)[0].waiting == 0
        removal.remove(database, "two", "x")
    removal.forget_reports(found.hub.database, "two")
