"""The hub's HTTP interface, as the workstation uses it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import urllib3

from edgeloop_agent.connection_pool import pool
from edgeloop_contract.errors import NetworkError, UsageError

PART_BYTES = 4 << 20
SECONDS = 60.0


class Hub:
    """`token`: of `edgeloop-hub token api`. Raises NetworkError with what the hub said."""

    def __init__(self, address: str, token: str, ca_file: str = "") -> None:
        self.address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = pool(
            self.address,
            retries=urllib3.Retry(total=3, redirect=0, backoff_factor=0.5, allowed_methods={"GET", "PUT"}),
            timeout=urllib3.Timeout(connect=10, read=SECONDS), ca_certs=ca_file or None,
        )  # fmt: skip

    @classmethod
    def of(cls, address: str, ca_file: str = "") -> Hub:
        """With the token of $EDGELOOP_HUB_TOKEN or of the file that $EDGELOOP_HUB_TOKEN_FILE names."""
        token, file = os.environ.get("EDGELOOP_HUB_TOKEN", ""), os.environ.get("EDGELOOP_HUB_TOKEN_FILE", "")
        if not token and file:
            try:
                token = Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise UsageError(f"{file}: cannot be read ({error.strerror}); check EDGELOOP_HUB_TOKEN_FILE") from error
        if not token:
            raise UsageError("no token: set EDGELOOP_HUB_TOKEN to what edgeloop-hub token api printed")
        return cls(address, token, ca_file)

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, body: object) -> Any:
        return self._ask("POST", path, msgspec.json.encode(body), "application/json")

    def packed(self, path: str) -> Any:
        """An answer in MessagePack."""
        return msgspec.msgpack.decode(self.raw(path))

    def raw(self, path: str) -> bytes:
        """A file's bytes. Raises NetworkError also where there is none."""
        try:
            answer = self._http.request("GET", f"{self.address}{path}", headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError(f"{self.address}: {str(error).rpartition(': ')[2]}; does the hub run there?") from error
        if answer.status >= 300:
            raise NetworkError(f"{self.address}{path}: status {answer.status}")
        return bytes(answer.data)

    def upload(self, path: Path, sha256: str) -> int:
        """Send what the hub does not have yet; returns how many bytes went over the wire."""
        sent = 0
        with path.open("rb") as file:
            place = int(self.get(f"/api/v1/uploads/{sha256}")["bytes"])
            file.seek(place)
            while part := file.read(PART_BYTES):
                answer = self._ask("PUT", f"/api/v1/uploads/{sha256}/{place}", part, "application/octet-stream")
                sent += len(part)
                place = int(answer["bytes"])
                file.seek(place)
        return sent

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        headers = {**self._headers, **({"Content-Type": kind} if kind else {})}
        try:
            answer = self._http.request(method, f"{self.address}{path}", headers=headers, body=body)
        except urllib3.exceptions.HTTPError as error:
            raise NetworkError(f"{self.address}: {str(error).rpartition(': ')[2]}; does the hub run there?") from error
        try:
            found = msgspec.json.decode(answer.data) if answer.data else None
        except msgspec.DecodeError as error:
            raise NetworkError(
                f"{self.address}{path}: answered {answer.status} with no JSON; is this a hub, or what does the proxy before it say?"
            ) from error
        if answer.status >= 300:
            raise NetworkError(f"{self.address}: {found.get('detail', '') if isinstance(found, dict) else answer.status}")
        return found
