"""Where updates come from: a hub (hub_client.py) or a folder. Nothing here is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from edgeloop_agent.hub_client import CHUNK, NotFound
from edgeloop_contract.errors import NetworkError


class Origin(Protocol):
    """Signed metadata and bundles, by name. `detour`: why the last file came another way than it should have, or ""."""

    @property
    def detour(self) -> str: ...
    def metadata(self, name: str) -> Iterator[bytes]: ...
    def target(self, name: str, offset: int) -> tuple[int, Iterator[bytes]]:
        """Bytes from `offset` on, or from the start where that cannot be had: the offset they begin at, and the bytes."""
        ...

    def part(self, name: str, begins: int, size: int) -> Iterator[bytes]:
        """`size` bytes from `begins` on. Raises NotFound where the other side gives no parts."""
        ...


class FolderOrigin:
    """`metadata/` and `targets/` of a folder, such as a USB stick's."""

    detour = ""

    def __init__(self, path: Path) -> None:
        self.path = path

    def metadata(self, name: str) -> Iterator[bytes]:
        return self._read(self.path / "metadata" / Path(name).name, 0)

    def target(self, name: str, offset: int) -> tuple[int, Iterator[bytes]]:
        return offset, self._read(self.path / "targets" / Path(name).name, offset)

    def part(self, name: str, begins: int, size: int) -> Iterator[bytes]:
        for chunk in self._read(self.path / "targets" / Path(name).name, begins):
            yield chunk[:size]
            size -= len(chunk)
            if size <= 0:
                return

    def _read(self, path: Path, offset: int) -> Iterator[bytes]:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                while chunk := file.read(CHUNK):
                    yield chunk
        except FileNotFoundError as error:
            raise NotFound(f"{path}: there is no such file") from error
        except OSError as error:
            raise NetworkError(f"{path}: cannot be read ({error.strerror}); is it mounted?") from error
