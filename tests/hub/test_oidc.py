"""Sign-in by an OpenID Connect provider: what lets somebody in, and what does not. The provider here lies where it is told to."""

from __future__ import annotations

import html
import json
import re
import time
import urllib.parse
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from commands import command, sentence
from edgeloop_hub.auth.oidc.provider import KEYS_AGAIN_SECONDS
from edgeloop_hub.web.page import local_path
from hubs import Hub, free_port, running_hub
from oidc import Browser, Provider, failure, form, new_key, provider_that_runs, sign_in_file

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with provider_that_runs() as found:
        yield found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Hub]:
    folder, port = tmp_path_factory.mktemp("hub"), free_port()
    sign_in_file(folder / "data", f"http://127.0.0.1:{port}", provider.issuer)
    with running_hub(folder, keys=False, port=port, serve=("--set", "sign_in_tries_per_address=400")) as found:
        found.run("user", "add", "ada", "--password-stdin", stdin=f"{PASSWORD}\n")
        yield found


@pytest.fixture(autouse=True)
def honest(provider: Provider) -> None:
    provider.sign, provider.changes, provider.only_at_userinfo = None, {}, ()
    provider.described = {}
    provider.person = person("lin")


def person(name: str, *groups: str) -> dict[str, Any]:
    return {
        "sub": f"sub-{name}",
        "email": f"{name}@works.example",
        "email_verified": True,
        "groups": list(groups or ("everybody",)),
    }


def log(hub: Hub) -> list[dict[str, Any]]:
    path = hub.folder / "audit.jsonl"
    hub.run("audit", "export", path)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_whole_way_in_and_out(hub: Hub, provider: Provider) -> None:
    browser = Browser()
    browser.get(f"{hub.address}/versions?x=1")  # not signed in: asked to, and brought back afterwards
    link = re.search(r'href="(/sign-in/oidc\?next=[^"]+)"', browser.text)
    assert link is not None and "Sign in with Works" in browser.text
    browser.get(hub.address + html.unescape(link[1]))
    assert browser.address == f"{hub.address}/versions?x=1" and "Sign out lin@works.example" in browser.text
    assert provider.token_form["code_verifier"] and "/me" not in provider.asked
    assert any(e["who"] == "Works" and e["action"] == "user added" and "role viewer" in e["detail"] for e in log(hub))
    assert any(e["who"] == "lin@works.example" and e["action"] == "signed in" and e["detail"] == "by Works" for e in log(hub))
    assert f"by {provider.issuer}" in hub.run("user", "list")
    form(browser, hub, "/sign-out")
    assert "still signed in at Works" in browser.text
    assert "signed" in browser.get(f"{hub.address}/sign-out/oidc") and browser.address.startswith(
        provider.issuer + "/end?client_id="
    )
    browser.get(hub.address + "/")
    assert browser.address == hub.address + "/sign-in"


def wrong_key(provider: Provider) -> Callable[[dict[str, Any]], str]:
    """A thief's key that calls itself by the right one's name."""
    thief = new_key("one")
    return lambda claims: provider.signed(claims, thief)


def unsigned(claims: dict[str, Any]) -> str:
    parts = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "none", "kid": "one"}, claims)]
    return ".".join([*parts, ""])


def by_the_public_key(provider: Provider) -> Callable[[dict[str, Any]], str]:
    """HMAC under what everybody knows: the public key as text."""
    import hashlib
    import hmac

    def sign(claims: dict[str, Any]) -> str:
        body = ".".join(
            urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "HS256", "kid": "one"}, claims)
        )
        key = provider.keys[0].as_pem(private=False)
        return body + "." + urlsafe_b64encode(hmac.new(key, body.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()

    return sign


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "another sign-in's nonce": ({"nonce": "planted"}, "nonce"),
    "no nonce": ({"nonce": None}, "nonce"),
    "for another client": ({"aud": "another"}, "aud"),
    "for several, issued to another": ({"aud": ["edgeloop hub", "another"], "azp": "another"}, "another client"),
    "for several, issued to nobody": ({"aud": ["edgeloop hub", "another"]}, "another client"),
    "expired": ({"exp": int(time.time()) - 3600}, "expired"),
    "without an end": ({"exp": None}, "exp"),
    "an end that is no number": ({"exp": "tomorrow"}, "exp"),
    "from the future": ({"iat": int(time.time()) + 3600}, "future"),
    "from another issuer": ({"iss": "https://evil.example"}, "iss"),
    "without a subject": ({"sub": None}, "sub"),
    "an empty subject": ({"sub": ""}, "sub"),
    "an address that is not verified": ({"email_verified": False}, "not verified"),
    "without a name": ({"email": None}, "email"),
    "a name with a slash": ({"email": "../admin"}, "no name"),
    "a local person's name": ({"email": "ada"}, "somebody else"),
    "no group": ({"groups": []}, "no role"),
    "groups of another kind": ({"groups": {"fleet-admins": True}}, "no role"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_token_that_does_not_fit_lets_nobody_in(hub: Hub, provider: Provider, case: str) -> None:
    provider.changes, words = HOSTILE[case]
    there = {**provider.person, "sub": f"sub-{case}"[:40]}
    provider.person = {name: value for name, value in there.items() if provider.changes.get(name, 0) is not None}
    browser = Browser()
    browser.sign_in(hub)
    assert browser.status == 403 and words in failure(browser) and not browser.is_in, browser.text


@pytest.mark.parametrize("case", ["another key", "alg none", "the public key as a secret", "no token", "half a token"])
def test_a_signature_that_does_not_fit_lets_nobody_in(hub: Hub, provider: Provider, case: str) -> None:
    provider.sign = {
        "another key": wrong_key(provider), "alg none": unsigned, "the public key as a secret": by_the_public_key(provider),
        "no token": lambda claims: "", "half a token": lambda claims: provider.signed(claims)[:60],
    }[case]  # fmt: skip
    browser = Browser()
    browser.sign_in(hub)
    assert browser.status == 403 and not browser.is_in, browser.text
    assert "You are not signed in" in failure(browser)


def test_an_answer_counts_once_and_only_in_the_browser_that_asked(hub: Hub, provider: Provider) -> None:
    mine, other = Browser(), Browser()
    kept: list[str] = []
    authorize = provider.authorize
    provider.authorize = lambda query: kept.append(authorize(query)) or f"{provider.issuer}/end"  # type: ignore[method-assign]
    mine.sign_in(hub)
    other.sign_in(hub)
    provider.authorize = authorize  # type: ignore[method-assign]
    other.get(kept[0])  # the answer to somebody else's sign-in, planted into this browser
    assert other.status == 400 and not other.is_in
    mine.get(kept[0].replace("state=", "state=x"))
    assert mine.status == 400 and not mine.is_in
    mine.get(kept[0].replace(urllib.parse.quote(provider.issuer, ""), "https%3A%2F%2Fevil.example"))
    assert mine.status == 403 and "another provider" in failure(mine)
    again = Browser()
    provider.authorize = lambda query: kept.append(authorize(query)) or kept[-1]  # type: ignore[method-assign]
    again.sign_in(hub)
    provider.authorize = authorize  # type: ignore[method-assign]
    assert again.is_in
    again.jar.clear("127.0.0.1", "/", "edgeloop_session")
    again.get(kept[-1])  # replayed
    assert again.status == 400 and not again.is_in and "finished already" in failure(again)


@pytest.mark.parametrize(
    "asked",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "evil",
        "",
    ],
)
def test_next_leads_nowhere_else(hub: Hub, asked: str) -> None:
    assert local_path(asked) == "/"
    browser = Browser()
    browser.sign_in(hub, asked)
    assert browser.address == hub.address + "/" and browser.is_in
    browser = Browser()
    browser.get(hub.address + "/sign-in", {"name": "ada", "password": PASSWORD, "next": asked})
    assert browser.address == hub.address + "/" and browser.is_in


@pytest.mark.long
def test_keys_that_rotate_are_read_anew(hub: Hub, provider: Provider) -> None:
    time.sleep(KEYS_AGAIN_SECONDS + 0.1)
    provider.keys = [provider.keys[0], new_key("two")]
    browser = Browser()
    browser.sign_in(hub)
    assert browser.is_in
    many = provider.asked.count("/jwks")
    provider.sign = lambda claims: provider.signed(claims, new_key("never published"))
    for _ in range(3):
        browser = Browser()
        browser.sign_in(hub)
        assert browser.status == 403 and "a key that the provider does not have" in failure(browser)
    assert provider.asked.count("/jwks") == many


def test_roles_follow_the_groups_until_an_admin_says_otherwise(hub: Hub, provider: Provider) -> None:
    browser, name = Browser(), "kim@works.example"
    provider.person, provider.only_at_userinfo = person("kim", "everybody", "fleet-admins"), ("groups",)
    browser.sign_in(hub)
    browser.get(hub.address + "/audit")
    assert browser.status == 200 and "/me" in provider.asked  # what the token lacks is asked for
    provider.only_at_userinfo, provider.person = (), person("kim", "everybody")
    browser.sign_in(hub)
    browser.get(hub.address + "/audit")
    assert browser.status == 403
    hub.run("user", "role", name, "operator")
    browser.sign_in(hub)
    assert re.search(rf"{name} +operator.*role of the hub", hub.run("user", "list"))
    hub.run("user", "role", name, "provider")
    browser.sign_in(hub)
    assert re.search(rf"{name} +viewer", hub.run("user", "list"))
    provider.person = {**person("kim", "nothing")}
    fresh = Browser()
    fresh.sign_in(hub)
    assert fresh.status == 403 and not fresh.is_in


def test_who_was_deleted_stays_out(hub: Hub, provider: Provider) -> None:
    browser, name = Browser(), "out@works.example"
    provider.person = person("out")
    browser.sign_in(hub)
    assert browser.is_in
    admin = Browser()
    admin.get(hub.address + "/sign-in", {"name": "ada", "password": PASSWORD})
    form(admin, hub, f"/people/{urllib.parse.quote(name)}/delete", sure="yes")
    assert admin.status == 200 and "kept out" in admin.text
    assert browser.get(hub.address + "/") and browser.address.endswith("/sign-in")
    for _ in range(2):
        browser.sign_in(hub)
        assert browser.status == 403 and f"deleted the account {name}" in failure(browser)
    assert [e["action"] for e in log(hub) if e["subject"] == name].count("sign-in refused") == 1
    provider.person = {**person("out"), "sub": "somebody-else"}  # the same name, another person
    browser.sign_in(hub)
    assert browser.status == 403
    provider.person = person("out")
    form(admin, hub, f"/people/{urllib.parse.quote(name)}/readmit")
    browser.sign_in(hub)
    assert browser.status == 200 and browser.is_in


def test_an_account_of_a_provider_has_no_password_and_is_not_the_last_admin(hub: Hub, provider: Provider) -> None:
    provider.person = {**person("pat", "fleet-admins"), "email": "pat"}
    browser = Browser()
    browser.sign_in(hub)
    assert browser.is_in
    for password in ("!", "nobody has this password", ""):
        other = Browser()
        other.get(hub.address + "/sign-in", {"name": "pat", "password": password})
        assert other.status in (400, 401) and not other.is_in
    words = [*hub.words, "user"]
    assert "signs in by a provider" in sentence(
        command("edgeloop-hub", *words, "add", "pat", "--password-stdin", stdin=f"{PASSWORD}\n"), 2
    )
    assert "only admin with a password" in sentence(command("edgeloop-hub", *words, "delete", "ada"), 2)


@pytest.mark.long
def test_a_provider_that_does_not_answer_is_one_sentence_and_passwords_work(hub: Hub, provider: Provider) -> None:
    browser, begun = Browser(), time.monotonic()
    exchanged = provider.token
    provider.token = lambda form: time.sleep(4) or exchanged(form)  # type: ignore[method-assign]
    browser.sign_in(hub, "/versions")
    provider.token = exchanged  # type: ignore[method-assign]
    assert time.monotonic() - begun < 3.5  # timeout_seconds is 2
    assert (
        browser.status == 502
        and "does not answer as it should" in failure(browser)
        and "A password works meanwhile" in failure(browser)
    )
    assert "127.0.0.1" not in failure(browser) and "does not answer" in (hub.folder / "hub.log").read_text()
    browser.get(hub.address + "/sign-in", {"name": "ada", "password": PASSWORD})
    assert browser.is_in
