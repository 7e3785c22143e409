"""What an id_token must be (OpenID Connect Core 1.0, 3.1.3.7), and whom it names. Nothing here asks the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    ExpiredTokenError,
    InvalidClaimError,
    InvalidKeyIdError,
    JoseError,
    MissingClaimError,
    UnsupportedAlgorithmError,
)
from joserfc.jwk import KeySet

from edgeloop_hub.auth.oidc.requests import SignInRefused
from edgeloop_hub.auth.people import ROLES, Role
from edgeloop_hub.auth.sign_in_settings import Oidc

LEEWAY_SECONDS = 60  # that the two clocks may differ
MAX_NAME, MAX_SUBJECT = 63, 255  # letters of an account's name; of a subject, as OpenID Connect has it


class UnknownKey(SignInRefused):
    """The token names a key that the provider's list, as it was last read, does not have."""


@dataclass(frozen=True)
class Identity:
    """Whom the provider names. `role`: by the claims, None for none. `sid`: the session at the provider, where it says one."""

    subject: str
    name: str
    role: Role | None
    sid: str = ""


def verified(token: str, keys: KeySet, oidc: Oidc, nonce: str) -> dict[str, Any]:
    """The claims of a token that is signed by one of `keys`, for this hub and this very sign-in. Raises SignInRefused."""
    claims = decoded(token, keys, oidc, sub={"essential": True}, nonce={"essential": True, "value": nonce}).claims
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", None if several else oidc.client_id) != oidc.client_id:
        raise SignInRefused("the token was issued to another client (azp)")
    if not claims["sub"] or len(claims["sub"]) > MAX_SUBJECT or not claims["sub"].isprintable():
        raise SignInRefused("the token's subject (sub) is empty, too long or not printable")
    return claims


def decoded(token: str, keys: KeySet, oidc: Oidc, **more: Any) -> jwt.Token:
    """A token that is signed by one of `keys`, of this issuer, for this hub, and of now. `more`: what else its claims must be.

    Raises SignInRefused.
    """
    registry = jwt.JWTClaimsRegistry(
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "value": oidc.issuer},
        aud={"essential": True, "value": oidc.client_id},
        exp={"essential": True},
        iat={"essential": True},
        **more,
    )
    try:
        found = jwt.decode(token, keys, algorithms=list(oidc.algorithms))
        registry.validate(found.claims)
    except InvalidKeyIdError as error:
        raise UnknownKey("the token's signature names a key that the provider does not have") from error
    except (JoseError, ValueError, TypeError, RecursionError) as error:  # the rest: a token that is malformed
        raise SignInRefused(_words(error, oidc)) from error
    return found


def _words(error: Exception, oidc: Oidc) -> str:
    match error:
        case UnsupportedAlgorithmError():
            return f"the token's signature algorithm is none of {', '.join(oidc.algorithms)}"
        case BadSignatureError():
            return "the token's signature is wrong"
        case ExpiredTokenError():
            return "the token has expired; is the hub's clock right?"
        case MissingClaimError() | InvalidClaimError():
            return f"the token does not fit ({error.description or error.error})"
    return "the token cannot be read"


def identity_of(claims: dict[str, Any], oidc: Oidc) -> Identity:
    """Raises SignInRefused where the claims give no name for an account."""
    name = claims.get(oidc.account_claim)
    if not isinstance(name, str) or not name:
        raise SignInRefused(f"the provider does not say your {oidc.account_claim}; the hub takes it as the account's name")
    if oidc.account_claim == "email" and claims.get("email_verified") is False:
        raise SignInRefused("the provider has not verified your e-mail address")
    name = name.lower() if oidc.account_claim == "email" else name
    if len(name) > MAX_NAME or not name.isprintable() or "/" in name or name != name.strip():
        raise SignInRefused(f"your {oidc.account_claim} is no name for an account: up to {MAX_NAME} letters, no slash")
    sid = claims.get("sid")
    return Identity(claims["sub"], name, role_of(claims, oidc), sid if isinstance(sid, str) else "")


def role_of(claims: dict[str, Any], oidc: Oidc) -> Role | None:
    """The highest role that the claim's values have; the default one; or None."""
    found: Any = claims
    for part in [oidc.role_claim] if oidc.role_claim in claims else oidc.role_claim.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    values: Sequence[Any] = [found] if isinstance(found, str) else found if isinstance(found, list) else ()
    roles = [oidc.roles[value] for value in values if isinstance(value, str) and value in oidc.roles]
    return max(roles, key=ROLES.index) if roles else (oidc.default_role or None)
