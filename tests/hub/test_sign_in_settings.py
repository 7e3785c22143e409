"""What sign-in.toml may say, a provider that describes itself wrongly, and a hub with one password that counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import command, sentence
from edgeloop_contract.errors import UsageError
from edgeloop_hub.auth import accounts, people, sign_in_settings
from edgeloop_hub.auth.oidc.provider import Provider as HubsProvider
from edgeloop_hub.auth.oidc.requests import MAX_ANSWER_BYTES, ProviderAway
from edgeloop_hub.storage.database import Database
from hubs import free_port, running_hub
from oidc import Browser, Provider, failure, form, provider_that_runs, sign_in_file

PASSWORD = "correct horse battery"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with provider_that_runs() as found:
        yield found


@pytest.mark.parametrize(
    "described, words",
    [
        ({"issuer": "https://evil.example"}, "calls itself 'https://evil.example'"),
        ({"authorization_endpoint": "http://evil.example/auth"}, "authorization_endpoint is no https:// address"),
        ({"authorization_endpoint": None}, "authorization_endpoint is no https:// address"),
        ({"padding": "x" * MAX_ANSWER_BYTES}, "sends more than"),
    ],
)
def test_a_provider_that_describes_itself_wrongly_is_not_followed(
    provider: Provider, tmp_path: Path, described: dict[str, Any], words: str
) -> None:  # fmt: skip
    sign_in_file(tmp_path, "https://hub.example", provider.issuer)
    settings = sign_in_settings.load(tmp_path)
    provider.described = described
    with pytest.raises(ProviderAway, match=re.escape(words)):
        HubsProvider(settings, settings.oidc, tmp_path).authorization_url("s", "n", "v")


def test_nobody_listens_there(tmp_path: Path) -> None:
    sign_in_file(tmp_path, "https://hub.example", f"http://127.0.0.1:{free_port()}")
    settings = sign_in_settings.load(tmp_path)
    with pytest.raises(ProviderAway, match=r"Works does not answer .*refused"):
        HubsProvider(settings, settings.oidc, tmp_path).authorization_url("s", "n", "v")


@pytest.mark.long
def test_passwords_for_emergencies_only(tmp_path: Path, provider: Provider) -> None:
    port = free_port()
    words, data = ("--data", tmp_path / "data"), tmp_path / "data"
    sign_in_file(data, f"http://127.0.0.1:{port}", provider.issuer, top='password_only_for = "ada"')
    assert "'ada' is no admin with a password" in sentence(command("edgeloop-hub", *words, "serve", "--port", port), 2)
    with Database(f"sqlite:///{data / 'hub.sqlite'}").writing() as database:
        for name in ("ada", "bob"):
            accounts.add_user(database, name, PASSWORD)
            people.keep_role(database, name, "admin")
        for change in (lambda: people.remove(database, "ada", "ada"), lambda: people.set_role(database, "ada", "viewer", "ada")):
            with pytest.raises(UsageError, match="password_only_for"):
                change()
    with running_hub(tmp_path, keys=False, port=port) as hub:
        for name, inside in (("bob", False), ("ada", True)):
            browser = Browser()
            assert "password for emergencies" in browser.get(hub.address + "/sign-in")
            browser.get(hub.address + "/sign-in", {"name": name, "password": PASSWORD})
            assert browser.is_in == inside and (inside or "Name or password is wrong" in failure(browser))
        form(browser, hub, "/people/ada/role", role="viewer")
        assert browser.status == 400 and "password_only_for" in browser.text


def test_every_fault_of_the_file_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sign-in.toml").write_text(
        'adress = "x"\n[oidc]\nissuer = 7\nclient_id = "a"\nalgorithms = ["none"]\ndefault_role = "king"\nroles = { all = "boss" }\n'
    )
    said = sentence(command("edgeloop-hub", "--data", tmp_path / "data", "serve"), 2)
    assert all(
        words in said
        for words in ("adress: unknown setting", "oidc.issuer", "oidc.algorithms[0]", "known: RS256, ", "oidc.roles.all")
    )
    assert said.count("(known: viewer, labeller, operator, admin)") == 2
    (tmp_path / "data" / "sign-in.toml").write_text(
        '[oidc]\nissuer = "http://id.example"\nclient_id = ""\nclient_secret_file = "x"\n'
    )
    said = sentence(command("edgeloop-hub", "--data", tmp_path / "data", "serve"), 2)
    assert all(
        f in said for f in ("address: missing", "oidc.issuer: expected an https", "client_id: missing", "secret_file", "oidc.roles")
    )
