"""A provider: where it is, its keys, and the two requests that a sign-in makes of it."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from edgeloop_hub.auth.oidc import logout_token
from edgeloop_hub.auth.oidc.id_token import Identity, UnknownKey, identity_of, verified
from edgeloop_hub.auth.oidc.logout_token import Ended
from edgeloop_hub.auth.oidc.requests import ProviderAway, ProviderRequests, SignInRefused
from edgeloop_hub.auth.sign_in_settings import Oidc, SignInSettings, is_safe
from edgeloop_hub.settings_file import secret

DISCOVERY = "/.well-known/openid-configuration"
METADATA_SECONDS = 3600.0  # that the discovery document is kept
KEYS_SECONDS = 3600.0  # that its keys are; a token of another key has them read anew, at most every
KEYS_AGAIN_SECONDS = 2.0
T = TypeVar("T")


@dataclass(frozen=True)
class _Read:
    at: float
    body: dict[str, Any]


@dataclass(frozen=True)
class _Keys:
    at: float
    keys: KeySet


class Provider:
    """Keeps what the provider says of itself, in this process. Threads may share it: two of them at worst ask for the same."""

    def __init__(self, settings: SignInSettings, oidc: Oidc, folder: Path) -> None:
        self.oidc, self._callback, self._folder = oidc, settings.callback, folder
        ca_file = str(folder / oidc.ca_file) if oidc.ca_file else None
        self._requests = ProviderRequests(oidc.shown_name, oidc.timeout_seconds, ca_file)
        self._metadata: _Read | None = None
        self._keys: _Keys | None = None
        self.said = ""  # why it could not be asked, as the log has it last

    def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Where a browser is sent. Raises ProviderAway."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code", "client_id": self.oidc.client_id, "redirect_uri": self._callback,
            "scope": " ".join(self.oidc.scopes), "state": state, "nonce": nonce,
            "code_challenge": challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        return _with_query(self._endpoint("authorization_endpoint"), asked)

    def end_session_url(self, back: str) -> str:
        """Where a browser is sent to sign out of the provider too; empty where it has no such page. Raises ProviderAway."""
        if "end_session_endpoint" not in self._described():
            return ""
        asked = {"client_id": self.oidc.client_id, "post_logout_redirect_uri": back}
        return _with_query(self._endpoint("end_session_endpoint"), asked)

    def identity(self, code: str, verifier: str, nonce: str) -> Identity:
        """Whom the provider names for this code. Raises ProviderAway and SignInRefused."""
        answer = self._exchanged(code, verifier)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise SignInRefused(f"{self.oidc.shown_name} gave no id_token")
        claims = self._by_its_keys(lambda keys: verified(token, keys, self.oidc, nonce))
        return identity_of(self._completed(claims, answer.get("access_token")), self.oidc)

    def ended(self, token: str) -> Ended:
        """What a logout token says has ended. Raises ProviderAway and SignInRefused."""
        return self._by_its_keys(lambda keys: logout_token.verified(token, keys, self.oidc))

    def _by_its_keys(self, check: Callable[[KeySet], T]) -> T:
        """`check` by the provider's keys; once more, where it meets one that is newer than they."""
        try:
            return check(self._key_set())
        except UnknownKey:
            return check(self._key_set(again=True))

    def _exchanged(self, code: str, verifier: str) -> dict[str, Any]:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._callback, "code_verifier": verifier}
        headers: dict[str, str] = {}
        methods = self._described().get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if not self.oidc.client_secret_file:
            form["client_id"] = self.oidc.client_id
        elif "client_secret_basic" in methods:
            pair = f"{quote(self.oidc.client_id, '')}:{quote(self._secret(), '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": self.oidc.client_id, "client_secret": self._secret()}
        status, answer = self._requests.post(self._endpoint("token_endpoint"), form, headers)
        if status >= 500:
            raise ProviderAway(f"{self.oidc.shown_name} answers with status {status}")
        if status != 200:
            raise SignInRefused(f"{self.oidc.shown_name} refuses this sign-in ({str(answer.get('error', status))[:80]!r})")
        return answer

    def _secret(self) -> str:
        return secret(self._folder / self.oidc.client_secret_file)

    def _completed(self, claims: dict[str, Any], access_token: object) -> dict[str, Any]:
        """With what only the userinfo endpoint says, where a claim that the hub needs is not in the token."""
        needed = {self.oidc.account_claim, self.oidc.role_claim.split(".")[0]}
        if needed <= set(claims) or "userinfo_endpoint" not in self._described() or not isinstance(access_token, str):
            return claims
        more = self._requests.get(self._endpoint("userinfo_endpoint"), access_token)
        if more.get("sub") != claims["sub"]:
            raise SignInRefused(f"{self.oidc.shown_name} describes somebody else than the token names (userinfo)")
        return {**more, **claims}

    def _described(self) -> dict[str, Any]:
        """The discovery document."""
        kept = self._metadata
        if kept is None or time.monotonic() - kept.at > METADATA_SECONDS:
            found = self._requests.get(self.oidc.issuer.rstrip("/") + DISCOVERY)
            if found.get("issuer") != self.oidc.issuer:
                raise ProviderAway(f"{self.oidc.shown_name} calls itself {str(found.get('issuer'))[:200]!r}; correct oidc.issuer")
            kept = self._metadata = _Read(time.monotonic(), found)
        return kept.body

    def _endpoint(self, name: str) -> str:
        found = self._described().get(name)
        if not isinstance(found, str) or not is_safe(found):
            raise ProviderAway(f"{self.oidc.shown_name}: its {name} is no https:// address")
        return found

    def _key_set(self, again: bool = False) -> KeySet:
        """`again`: read anew, because a token was signed with a key that is not among them."""
        kept = self._keys
        age = time.monotonic() - kept.at if kept else float("inf")
        if kept is None or age > (KEYS_AGAIN_SECONDS if again else KEYS_SECONDS):
            kept = self._keys = _Keys(time.monotonic(), self._read_keys())
        return kept.keys

    def _read_keys(self) -> KeySet:
        found = self._requests.get(self._endpoint("jwks_uri")).get("keys")
        kept = (
            [key for key in found if isinstance(key, dict) and key.get("kty") in ("RSA", "EC")] if isinstance(found, list) else []
        )
        try:
            return KeySet.import_key_set({"keys": kept})
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise ProviderAway(f"{self.oidc.shown_name}: its list of keys cannot be read") from error


def _with_query(url: str, asked: dict[str, str]) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(asked)}"
