"""`sign-in.toml` in the hub's folder: who may sign in by password, and the OpenID Connect provider. Faults are found at once."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_contract.settings import problems
from edgeloop_hub.auth.people import Role
from edgeloop_hub.settings_file import is_address, secret, toml_of

FILE = "sign-in.toml"
CALLBACK = "/sign-in/oidc/back"
BACK_CHANNEL = "/sign-out/oidc/back-channel"
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]


class Oidc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OpenID Connect provider. Files stand beside sign-in.toml, unless their paths are absolute."""

    issuer: str
    client_id: str
    name: str = ""  # on the button; empty: the issuer's host
    client_secret_file: str = ""  # none: a public client, which PKCE alone protects
    ca_file: str = ""  # that signed the provider's certificate, where no public authority did
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    account_claim: str = "email"  # the account's name
    role_claim: str = "groups"  # full stops go into objects, as in realm_access.roles
    roles: dict[str, Role] = {}  # a value of that claim → a role; of several the highest
    default_role: Role | Literal[""] = ""  # of who has none of those values; empty: refused
    algorithms: tuple[Algorithm, ...] = ("RS256", "PS256", "ES256")  # of signatures that count
    timeout_seconds: float = 10.0

    @property
    def shown_name(self) -> str:
        return self.name or str(urlsplit(self.issuer).hostname)


class SignInSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`address`: the hub's own, as browsers see it. `password_only_for`: the one account with a password; empty: all have one."""

    address: str = ""
    password_only_for: str = ""
    oidc: Oidc | None = None

    @property
    def callback(self) -> str:
        return self.address.rstrip("/") + CALLBACK

    def may_use_password(self, name: str) -> bool:
        return not self.password_only_for or name == self.password_only_for


def load(folder: Path) -> SignInSettings:
    """The settings of `folder`/sign-in.toml; passwords alone where there is no file.

    Raises UsageError with every fault of the file, a sentence each.
    """
    path = folder / FILE
    data = toml_of(path)
    if data is None:
        return SignInSettings()
    oidc = data.get("oidc")
    faults = problems({name: value for name, value in data.items() if name != "oidc"}, SignInSettings, "")
    if oidc is not None:
        faults += problems(oidc, Oidc, "oidc")
    if not faults:
        settings = msgspec.convert(data, SignInSettings)
        faults += [*_faults(settings), *(_oidc_faults(settings.oidc, folder) if settings.oidc else ())]
    if faults:
        raise UsageError(f"{path}: " + "; ".join(faults))
    return settings


def _faults(settings: SignInSettings) -> Iterator[str]:
    if settings.address and (not is_address(settings.address) or urlsplit(settings.address).path.strip("/")):
        yield f"address: expected the hub's own address, such as https://hub.example, got {settings.address!r}"
    if settings.oidc and not settings.address:
        yield "address: missing; the provider sends people back to it, such as https://hub.example"
    if settings.password_only_for and settings.oidc is None:
        yield "password_only_for: without [oidc] nobody else could sign in"


def _oidc_faults(oidc: Oidc, folder: Path) -> Iterator[str]:
    if not is_safe(oidc.issuer):
        yield f"oidc.issuer: expected an https:// address, got {oidc.issuer!r}"
    if len(oidc.issuer) > 200:
        yield "oidc.issuer: more than 200 letters"
    if not oidc.client_id:
        yield "oidc.client_id: missing"
    if oidc.client_secret_file:
        try:
            secret(folder / oidc.client_secret_file)
        except UsageError as error:
            yield f"oidc.client_secret_file: {error}"
    if oidc.ca_file and not (folder / oidc.ca_file).is_file():
        yield f"oidc.ca_file: {folder / oidc.ca_file}: there is no such file"
    if "openid" not in oidc.scopes:
        yield "oidc.scopes: openid is missing; without it no provider says who signed in"
    if not oidc.algorithms:
        yield "oidc.algorithms: name one at least, such as RS256"
    if not 0 < oidc.timeout_seconds <= 60:
        yield f"oidc.timeout_seconds: expected up to 60 seconds, got {oidc.timeout_seconds:g}"
    if not oidc.roles and not oidc.default_role:
        yield "oidc.roles: name a group and its role, or give default_role; else everybody is refused"


def is_safe(url: str) -> bool:
    """Whether it is https://, or http:// on this machine: else anybody on the way could say who signs in."""
    if not is_address(url):
        return False
    named = urlsplit(url)
    if named.scheme == "https" or named.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(named.hostname)).is_loopback
    except ValueError:
        return False
