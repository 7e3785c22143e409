"""An OpenID Connect provider that lies when it is told to, and a browser that goes to it and back."""

from __future__ import annotations

import base64
import hashlib
import html
import http.cookiejar
import json
import re
import secrets
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey

from hubs import Hub


def new_key(kid: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"})


@dataclass
class Provider:
    """`person`: whose claims it gives. `sign`: makes the token of the claims. `only_at_userinfo`: claims that the token lacks."""

    port: int = 0
    person: dict[str, Any] = field(default_factory=dict)
    keys: list[ECKey] = field(default_factory=lambda: [new_key("one")])
    sign: Callable[[dict[str, Any]], str] | None = None
    changes: dict[str, Any] = field(default_factory=dict)  # to the claims of the next tokens
    only_at_userinfo: tuple[str, ...] = ()
    described: dict[str, Any] = field(default_factory=dict)  # changes to the discovery document
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    token_form: dict[str, str] = field(default_factory=dict)

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def discovery(self) -> dict[str, Any]:
        names = {"authorization": "auth", "token": "token", "userinfo": "me", "end_session": "end"}
        return {
            "issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks", "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            **{f"{name}_endpoint": f"{self.issuer}/{path}" for name, path in names.items()}, **self.described,
        }  # fmt: skip

    def authorize(self, query: dict[str, str]) -> str:
        code = secrets.token_urlsafe(8)
        self.codes[code] = query
        return query["redirect_uri"] + "?" + urllib.parse.urlencode({"code": code, "state": query["state"], "iss": self.issuer})

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.token_form = form
        begun = self.codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=").decode()
        if begun is None or challenge != begun["code_challenge"] or form["redirect_uri"] != begun["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        named = {name: value for name, value in self.person.items() if name not in self.only_at_userinfo}
        claims = {"iss": self.issuer, "aud": begun["client_id"], "iat": now, "exp": now + 300, "nonce": begun["nonce"], **named}
        claims = {name: value for name, value in {**claims, **self.changes}.items() if value is not None}
        return 200, {"access_token": "opaque", "token_type": "Bearer", "id_token": (self.sign or self.signed)(claims)}

    def signed(self, claims: dict[str, Any], key: ECKey | None = None) -> str:
        key = key or self.keys[-1]
        return jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key)


class _Handler(BaseHTTPRequestHandler):
    provider: Provider

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer({name: values[0] for name, values in urllib.parse.parse_qs(body).items()})

    def _answer(self, form: dict[str, str]) -> None:
        provider, named = self.provider, urllib.parse.urlsplit(self.path)
        provider.asked.append(named.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(named.query).items()}
        if named.path == "/auth":
            self.send_response(303)
            self.send_header("Location", provider.authorize(query))
            self.end_headers()
            return
        answers: dict[str, Callable[[], Any]] = {
            "/.well-known/openid-configuration": provider.discovery,
            "/jwks": lambda: {"keys": [key.as_dict(private=False) for key in provider.keys]},
            "/me": lambda: provider.person,
            "/end": lambda: {"signed": "out"},
        }
        status, body = provider.token(form) if named.path == "/token" else (200, answers[named.path]())
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def provider_that_runs(port: int = 0) -> Iterator[Provider]:
    found = Provider()
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"provider": found}))
    server.daemon_threads = True
    found.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def sign_in_file(folder: Path, address: str, issuer: str, more: str = "", top: str = "") -> None:
    """sign-in.toml, and the client's secret, in a hub's folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "oidc.secret").write_text("the client's own secret %\n")
    text = f'address = "{address}"\n{top}\n[oidc]\nissuer = "{issuer}"\nclient_id = "edgeloop hub"\n'
    text += f'client_secret_file = "oidc.secret"\nname = "Works"\ntimeout_seconds = 2\n{more}\n'
    text += '[oidc.roles]\n"fleet-admins" = "admin"\neverybody = "viewer"\n'
    (folder / "sign-in.toml").write_text(text)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.browser.passed.append(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Browser:
    """Keeps cookies, follows redirects from host to host; status, address and text of the last page stay."""

    def __init__(self) -> None:
        self.jar = http.cookiejar.CookieJar()
        self._open = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar), _Redirects(self))
        self._open.addheaders = [("Accept", "text/html")]
        self.status, self.address, self.text = 0, "", ""
        self.passed: list[str] = []  # addresses that it was sent to

    def get(self, url: str, data: dict[str, str] | None = None) -> str:
        body = urllib.parse.urlencode(data).encode() if data is not None else None
        try:
            with self._open.open(url, body, timeout=20) as answer:
                self.status, self.address, self.text = answer.status, answer.url, answer.read().decode()
        except urllib.error.HTTPError as error:
            self.status, self.address, self.text = error.code, error.url, error.read().decode()
        except urllib.error.URLError:  # nobody listens there
            self.status, self.text = 0, ""
        return self.text

    def sign_in(self, hub: Hub, following: str = "") -> str:
        """By the provider; the text of the page that comes then."""
        return self.get(f"{hub.address}/sign-in/oidc" + (f"?{urllib.parse.urlencode({'next': following})}" if following else ""))

    @property
    def is_in(self) -> bool:
        return any(cookie.name == "edgeloop_session" for cookie in self.jar)


def failure(browser: Browser) -> str:
    found = re.search(r'role="alert">(.*?)</p>', browser.text)
    assert found is not None, browser.text
    return html.unescape(found[1])


def form(browser: Browser, hub: Hub, path: str, **fields: str) -> None:
    csrf = re.search(r'name="csrf" value="(\w+)"', browser.get(hub.address + "/"))
    assert csrf is not None
    browser.get(hub.address + path, {"csrf": csrf[1], **fields})
