"""What a logout token must be (OpenID Connect Back-Channel Logout 1.0, 2.4 and 2.6), and what it says has ended."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from joserfc.jwk import KeySet

from edgeloop_hub.auth.oidc.id_token import LEEWAY_SECONDS, decoded
from edgeloop_hub.auth.oidc.requests import SignInRefused
from edgeloop_hub.auth.sign_in_settings import Oidc

EVENT = "http://schemas.openid.net/event/backchannel-logout"
TYPES = ("logout+jwt", "application/logout+jwt", "jwt", "")  # the first is recommended; many providers name none
MAX_AGE_SECONDS = 600.0  # of a token; its number is kept as long
MAX_LETTERS = 255


@dataclass(frozen=True)
class Ended:
    """What ended at the provider: one session (`sid`), or all of a subject's. `number`: of the token (jti). Empty: not said."""

    subject: str
    sid: str
    number: str


def verified(token: str, keys: KeySet, oidc: Oidc) -> Ended:
    """Raises SignInRefused for a token that is none of this provider's, not for this hub, too old, or no logout token."""
    found = decoded(token, keys, oidc)
    kind = found.header.get("typ", "")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise SignInRefused("the token is of another type (typ)")
    claims = found.claims
    if claims["iat"] < time.time() - MAX_AGE_SECONDS - LEEWAY_SECONDS:
        raise SignInRefused("the token is too old (iat)")
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(EVENT), dict):
        raise SignInRefused("the token is no logout token (events)")
    if "nonce" in claims:
        raise SignInRefused("the token has a nonce, as one of a sign-in has")
    ended = Ended(*(_text(claims, name) for name in ("sub", "sid", "jti")))
    if not ended.number:
        raise SignInRefused("the token has no number (jti)")
    if not ended.subject and not ended.sid:
        raise SignInRefused("the token names neither a person (sub) nor a session (sid)")
    return ended


def _text(claims: dict[str, Any], name: str) -> str:
    """Raises SignInRefused for a claim that is there, and is no text."""
    found = claims.get(name, "")
    if not isinstance(found, str) or len(found) > MAX_LETTERS or not (found.isprintable() or name == "jti"):
        raise SignInRefused(f"the token's {name} cannot be read")
    return found
