"""Sign-in by a provider that others wrote: oidc-provider, a certified one, with its own pages, keys and sessions."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from edgeloop_hub.auth.oidc.provider import KEYS_AGAIN_SECONDS
from hubs import Hub, free_port, running_hub
from oidc import Browser, sign_in_file
from programs import needs
from serving import eventually

HERE = Path(__file__).parent.parent / "support" / "oidc_provider"
NODE = 20  # that oidc-provider needs
pytestmark = [pytest.mark.long, needs("nodejs", "npm")]
PEOPLE = {
    "lin": {"email": "lin@works.example", "email_verified": True, "groups": ["everybody"]},
    "kim": {"email": "kim@works.example", "email_verified": True, "groups": ["everybody", "fleet-admins"]},
    "guest": {"email": "guest@works.example", "email_verified": True, "groups": ["guests"]},
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The provider and what it needs, in the versions of package-lock.json."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < NODE:
        pytest.skip(f"oidc-provider needs Node.js {NODE}; this is {version.strip()}")
    folder = Path(shutil.copytree(HERE, tmp_path_factory.mktemp("provider"), dirs_exist_ok=True))
    words = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm ci cannot fetch oidc-provider: {done.stderr.strip()[-300:]}")
    return folder


@dataclass
class Setting:
    folder: Path
    port: int
    hub_port: int

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self, kid: str) -> Iterator[None]:
        """With a new key of this name."""
        hub = f"http://127.0.0.1:{self.hub_port}"
        client = {
            "client_id": "edgeloop hub", "client_secret": "the client's own secret %", "application_type": "native",
            "redirect_uris": [f"{hub}/sign-in/oidc/back"], "post_logout_redirect_uris": [f"{hub}/sign-in"],
            "backchannel_logout_uri": f"{hub}/sign-out/oidc/back-channel", "backchannel_logout_session_required": True,
        }  # fmt: skip
        key = RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}).as_dict(private=True)
        settings = {"issuer": self.issuer, "port": self.port, "keys": [key], "client": client, "people": PEOPLE}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(["node", "provider.mjs", "settings.json"], cwd=self.folder, stdout=log, stderr=log)
        try:
            eventually(lambda: Browser().get(self.issuer + "/.well-known/openid-configuration"))
            yield
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def setting(packages: Path) -> Setting:
    return Setting(packages, free_port(), free_port())


@contextmanager
def hub_of(setting: Setting, folder: Path) -> Iterator[Hub]:
    sign_in_file(
        folder / "data", f"http://127.0.0.1:{setting.hub_port}", setting.issuer, more='scopes = ["openid", "email", "groups"]'
    )
    with running_hub(folder, keys=False, port=setting.hub_port) as hub:
        hub.run("user", "add", "ada", "--password-stdin", stdin="correct horse battery\n")
        yield hub


def through_its_pages(browser: Browser, name: str) -> None:
    """Fill in the provider's forms, one after the other, until it sends the browser back."""
    for _ in range(3):
        shown = re.search(r'<form[^>]* action="([^"]+)"', browser.text)
        if shown is None or "/interaction/" not in browser.address:
            return
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', browser.text))
        browser.get(urllib.parse.urljoin(browser.address, html.unescape(shown[1])), {**hidden, "login": name, "password": "any"})


def signed_in(hub: Hub, name: str) -> Browser:
    browser = Browser()
    browser.sign_in(hub, "/versions")
    through_its_pages(browser, name)
    return browser


def test_people_of_a_real_provider(setting: Setting, tmp_path: Path) -> None:
    with hub_of(setting, tmp_path) as hub:
        with setting.running("one"):
            lin = signed_in(hub, "lin")
            assert lin.status == 200 and lin.address == f"{hub.address}/versions" and "Sign out lin@works.example" in lin.text, (
                lin.text
            )
            kim = signed_in(hub, "kim")
            kim.get(hub.address + "/audit")
            assert kim.status == 200 and "signed in" in kim.text  # an admin by her groups, which userinfo alone says
            guest = signed_in(hub, "guest")
            assert guest.status == 403 and "has no role at this hub" in guest.text and not guest.is_in
            _replays(hub, setting)
            _out(hub, lin, setting)
            _ended_there(hub)
        with setting.running("two"):  # new keys, and sessions forgotten
            time.sleep(KEYS_AGAIN_SECONDS)
            kim = signed_in(hub, "kim")
            assert kim.is_in, kim.text
        found: dict[str, Any] = {line.split()[0]: line.split()[1] for line in hub.run("user", "list").splitlines()}
        assert found == {"ada": "admin", "kim@works.example": "admin", "lin@works.example": "viewer"}


def _replays(hub: Hub, setting: Setting) -> None:
    """A code that was used, and one that another browser got, let nobody in; nor one without the verifier."""
    victim, thief = Browser(), Browser()
    victim.sign_in(hub)
    thief.sign_in(hub)
    through_its_pages(victim, "lin")
    back = next(url for url in victim.passed if "/sign-in/oidc/back?" in url)
    assert victim.is_in
    thief.get(back)
    assert thief.status == 400 and not thief.is_in
    thief.sign_in(hub)  # its own state with the victim's code: another verifier, and the code is used
    begun = next(url for url in reversed(thief.passed) if "code_challenge" in url)
    state = urllib.parse.parse_qs(urllib.parse.urlsplit(begun).query)["state"][0]
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)
    asked = urllib.parse.urlencode({"code": query["code"][0], "state": state, "iss": setting.issuer})
    thief.get(f"{hub.address}/sign-in/oidc/back?{asked}")
    assert thief.status == 403 and "invalid_grant" in thief.text and not thief.is_in


def _out(hub: Hub, browser: Browser, setting: Setting) -> None:
    csrf = re.search(r'name="csrf" value="(\w+)"', browser.get(hub.address + "/"))
    assert csrf is not None
    browser.get(hub.address + "/sign-out", {"csrf": csrf[1]})
    browser.get(hub.address + "/sign-out/oidc")
    assert browser.address.startswith(setting.issuer) and browser.status == 200 and "sign-out" in browser.text.lower()


def _ended_there(hub: Hub) -> None:
    """Who signs out at the provider's own page is out at the hub: in this browser, and not in the others."""
    desk, phone = signed_in(hub, "kim"), signed_in(hub, "kim")
    desk.get(hub.address + "/sign-out/oidc")  # on to the provider's page, which asks; the hub's own session goes on until then
    shown = re.search(r'<form[^>]* action="([^"]+)"', desk.text)
    hidden = dict(re.findall(r'name="(\w+)" value="([^"]*)"', desk.text))
    assert shown is not None, desk.text
    desk.get(urllib.parse.urljoin(desk.address, html.unescape(shown[1])), {**hidden, "logout": "yes"})
    eventually(lambda: not _is_in(hub, desk))
    assert _is_in(hub, phone)


def _is_in(hub: Hub, browser: Browser) -> bool:
    browser.get(hub.address + "/versions")
    return "/sign-in" not in browser.address
