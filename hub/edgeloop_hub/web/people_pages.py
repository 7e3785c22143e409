"""For admins: people and their roles, API tokens, and the audit log."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from litestar import Controller, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from litestar.response import Redirect

from edgeloop_hub.auth import accounts, audit, people
from edgeloop_hub.auth.guards import client_of
from edgeloop_hub.web.page import ERROR_PAGES, Form, PageRequest, check_form, is_person, page, query_link, session_of

PAGE = 100
Word = Annotated[str, Parameter(max_length=200)]


class PeoplePages(Controller):
    """Behind a sign-in as an admin."""

    path = "/"
    guards = [is_person]
    include_in_schema = False
    exception_handlers = ERROR_PAGES

    @get("/people", sync_to_thread=True, role="admin")
    def people(self, state: State, request: PageRequest) -> Response[bytes]:
        with state.hub.database.reading() as database:
            found, tokens, gone = people.listed(database), accounts.token_summaries(database), people.kept_out(database)
        oidc = state.sign_in.oidc
        return page(
            "people.html.j2", "People", request, people=found, tokens=tokens, gone=gone, roles=people.ROLES,
            providers={oidc.issuer: oidc.shown_name} if oidc else {},
        )  # fmt: skip

    @get("/people/{name:str}/{verb:str}", sync_to_thread=True, role="admin")
    def ask_first(self, name: str, verb: str, request: PageRequest) -> Response[bytes]:
        if verb not in ("delete", "revoke"):
            raise NotFoundException("There is no such page.")
        shown = name[:63]
        lines = {
            "delete": ["Open sessions end, and nobody signs in under this name.", "Labels and entries of the log stay under it."],
            "revoke": ["Whoever has this token can do nothing with it any more, from now on."],
        }
        return page(
            "confirm.html.j2", f"{verb.capitalize()} {shown}?", request, section="People",
            action=f"/people/{quote(shown, '')}/{verb}", button=verb.capitalize(), back="/people", lines=lines[verb],
        )  # fmt: skip

    @post("/people/{name:str}/{verb:str}", sync_to_thread=True, role="admin")
    def act(self, name: str, verb: str, data: Form, state: State, request: PageRequest) -> Response[Any]:
        """`name`: a person, or the id of a token."""
        check_form(request, data)
        if verb not in ("role", "delete", "revoke", "readmit"):
            raise NotFoundException("There is no such button.")
        if verb in ("delete", "revoke") and data.get("sure") != "yes":
            return Redirect(f"/people/{quote(name, '')}/{verb}", status_code=303)
        keeps = state.sign_in.password_only_for
        who, address = session_of(request).user, client_of(request)
        with state.hub.database.writing() as database:
            if verb == "role":
                people.set_role(database, name, data.get("role", ""), keeps)
                audit.append(database, who, "role changed", name, data["role"], address)
            elif verb == "delete":
                people.remove(database, name, keeps)
                audit.append(database, who, "user deleted", name, address=address)
            elif verb == "readmit":
                people.readmit(database, name)
                audit.append(database, who, "user readmitted", name, address=address)
            else:
                count = accounts.revoke_tokens(database, name)
                audit.append(database, who, "token revoked", name, f"{count} of them", address)
        return Redirect("/people", status_code=303)

    @get("/audit", sync_to_thread=True, role="admin")
    def log(
        self, state: State, request: PageRequest, who: Word = "", before: Annotated[int, Parameter(ge=1, le=2**31)] | None = None
    ) -> Response[bytes]:  # fmt: skip
        """`before`: the number of the last entry of the page before."""
        with state.hub.database.reading() as database:
            found = audit.newest(database, PAGE + 1, before, who.strip())
        following = query_link("/audit", who=who, before=found[PAGE - 1].number) if len(found) > PAGE else ""
        return page("audit.html.j2", "Audit", request, entries=found[:PAGE], who=who, following=following, before=before)


HANDLERS = (PeoplePages,)
