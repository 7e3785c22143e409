"""Requests to a provider: no redirects, a deadline for all of it, and answers of bounded size."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import urllib3

from edgeloop_contract.errors import DataError, NetworkError
from edgeloop_hub.auth.sign_in_settings import is_safe
from edgeloop_hub.outgoing import failure_words, pool_for

MAX_ANSWER_BYTES = 512 << 10


class ProviderAway(NetworkError):
    """The provider does not answer, or not as OpenID Connect has it."""


class SignInRefused(DataError):
    """The provider answered, and what it says lets nobody in."""


@dataclass(frozen=True)
class ProviderRequests:
    """`name`: of the provider, for sentences. `seconds`: for a whole request."""

    name: str
    seconds: float
    ca_file: str | None = None

    def get(self, url: str, token: str = "") -> dict[str, Any]:
        """A JSON object. Raises ProviderAway."""
        status, found = self._ask("GET", url, {"Authorization": f"Bearer {token}"} if token else {})
        if status != 200:
            raise ProviderAway(f"{self.name} answers with status {status} to {url}")
        return found

    def post(self, url: str, form: dict[str, str], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and a JSON object. Raises ProviderAway."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._ask("POST", url, {**headers, **kind}, urlencode(form).encode())

    def _ask(self, method: str, url: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        if not is_safe(url):
            raise ProviderAway(f"{self.name} names the address {url[:200]!r}, which is not https://")
        ends = time.monotonic() + self.seconds
        timeout = urllib3.Timeout(connect=self.seconds / 2, total=self.seconds)
        asked = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "edgeloop-hub", **headers}
        try:
            with pool_for(url, retries=False, timeout=timeout, ca_certs=self.ca_file) as http:
                answer = http.request(method, url, body=body, headers=asked, preload_content=False, redirect=False)
                try:
                    return answer.status, self._object(self._read(answer, ends), url)
                finally:
                    answer.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ProviderAway(f"{self.name} does not answer ({failure_words(error)})") from error

    def _read(self, answer: urllib3.BaseHTTPResponse, ends: float) -> bytes:
        whole = b""
        for chunk in answer.stream(16 << 10):
            whole += chunk
            if time.monotonic() > ends:
                raise ProviderAway(f"{self.name} answers too slowly: {self.seconds:g} s are over")
            if len(whole) > MAX_ANSWER_BYTES:
                raise ProviderAway(f"{self.name} sends more than {MAX_ANSWER_BYTES} bytes")
        return whole

    def _object(self, body: bytes, url: str) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ProviderAway(f"{self.name} answers with something else than JSON to {url}") from error
        if not isinstance(found, dict):
            raise ProviderAway(f"{self.name} answers with something else than a JSON object to {url}")
        return found
