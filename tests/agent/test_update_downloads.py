"""Downloads of updates over a network that breaks: interrupted, slow, endless, trickling."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from edgeloop_agent.updates.origins import FolderOrigin
from edgeloop_agent.updates.taking import Taking
from edgeloop_contract.errors import NetworkError
from update_bench import Bench, fetched, served


def test_an_interrupted_download_goes_on_where_it_stopped(bench: Bench) -> None:
    bench.offer(2)
    bench.repository.publish()
    sent: list[int] = []

    def in_pieces(handler: Any, content: bytes) -> None:
        begins = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        piece = content[begins : begins + 5000]
        handler.send_response(206 if begins else 200)
        handler.send_header("Content-Length", str(len(content) - begins))
        handler.send_header("Content-Range", f"bytes {begins}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(piece)
        sent.append(len(piece))
        handler.close_connection = True

    with served(bench.repository.folder, in_pieces) as address:
        size = next((bench.repository.folder / "targets").iterdir()).stat().st_size
        for _ in range(size // 5000 + 2):
            try:
                slot = fetched(bench, address)
                break
            except NetworkError:
                assert not bench.folder.slot("a").exists()
        assert slot.stat().st_size == size == sum(sent)


def test_slow_and_endless_answers_are_broken_off(bench: Bench) -> None:
    bench.offer(2)
    bench.repository.publish()

    def endless(handler: Any, content: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x" * 65536)

    def silent(handler: Any, content: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        time.sleep(3)

    for misbehave, says in ((endless, "more than the"), (silent, "")):
        start = time.monotonic()
        with served(bench.repository.folder, misbehave) as address, pytest.raises(NetworkError) as error:
            fetched(bench, address, seconds=0.5)
        assert says in str(error.value) and time.monotonic() - start < 10
        assert not bench.folder.slot("a").exists()
        shutil.rmtree(bench.folder.path / "metadata-1", ignore_errors=True)


def test_a_trickle_is_broken_off() -> None:
    from edgeloop_agent.updates.download import paced

    clock = iter(range(0, 1000, 10))
    with pytest.raises(NetworkError, match="only 0 bytes a second"):
        list(paced(iter([b"x"] * 90), 0, 256, lambda: float(next(clock)), lambda _: None))
    slept: list[float] = []
    list(paced(iter([b"x" * 1000] * 10), 500, 1, lambda: 0.0, slept.append))
    assert max(slept) == pytest.approx(20.0)  # 10,000 bytes at 500 a second


def test_a_download_that_outlasts_the_window_waits_for_the_next_and_is_not_fetched_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    target, closes = bench.offer(2), time.time() + 60
    bench.repository.publish()
    origin = FolderOrigin(tmp_path / "stick")
    tried: list[Path] = []

    def turn(now: float, until: float) -> tuple[str, bool]:
        taking = Taking(
            bench.config, bench.folder, bench.running(), [], lambda p: tried.append(p), lambda _: None, lambda: now, until=until
        )
        return taking(origin, [target])

    assert turn(closes + 1, closes) == (f"{target} waits for the next maintenance window", False)
    assert not tried and not bench.folder.load().trial
    next((tmp_path / "stick" / "targets").glob(f"*{target}")).unlink()  # what is here is enough
    assert "is staged" in turn(closes + 2, closes + 60)[0]
    assert len(tried) == 1 and bench.folder.load().trial
