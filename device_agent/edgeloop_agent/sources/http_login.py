"""Name and password as a camera asks for them: Digest where it offers that, else Basic (RFC 7616, RFC 7617)."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.request import AbstractDigestAuthHandler, HTTPPasswordMgrWithDefaultRealm, Request, parse_http_list, parse_keqv_list

import urllib3

__all__ = ["Login"]


class Login:
    """Sends nothing before it was asked: a password in clear goes only where Basic alone is offered."""

    def __init__(self, address: str, username: str, password: str) -> None:
        self._request, self._username, self._password = Request(address), username, password
        known = HTTPPasswordMgrWithDefaultRealm()
        known.add_password(None, address, username, password)
        self._digest = AbstractDigestAuthHandler(known)
        self._challenge: dict[str, str] = {}
        self._basic = False

    def headers(self) -> dict[str, str]:
        """Of the next request. Raises ValueError for a way of hashing that is not known."""
        if self._challenge:
            words = self._digest.get_authorization(self._request, self._challenge)
            return {"Authorization": f"Digest {words}"} if words else {}
        return dict(urllib3.make_headers(basic_auth=f"{self._username}:{self._password}")) if self._basic else {}

    def accept(self, challenges: Sequence[str]) -> bool:
        """Take what the camera asks for; whether another request may succeed."""
        if not self._username:
            return False
        offered = {scheme.lower(): rest for scheme, _, rest in (text.strip().partition(" ") for text in challenges)}
        if "digest" in offered:
            try:
                self._challenge = parse_keqv_list(parse_http_list(offered["digest"]))
            except (ValueError, IndexError):  # a word without a value
                self._challenge = {}
            return "nonce" in self._challenge and "realm" in self._challenge
        self._challenge, self._basic = {}, "basic" in offered
        return self._basic
