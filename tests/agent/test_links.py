"""Links in a folder of recordings: whoever may write there reads nothing else by it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgeloop_agent.config import Source
from edgeloop_agent.sources import Recording
from edgeloop_agent.sources.files import open_source
from edgeloop_agent.sources.folder_watch import WatchedFolder

SECRET = "root:x:0:0,secret\n1,2\n"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    found = tmp_path / "in"
    found.mkdir()
    (tmp_path / "secret.csv").write_text(SECRET)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "b.csv").write_text(SECRET)
    (found / "good.csv").write_text("a,b\n1,2\n3,4\n")
    (found / "inside.csv").symlink_to(found / "good.csv")
    (found / "outside.csv").symlink_to(tmp_path / "secret.csv")
    (found / "relative.csv").symlink_to(Path("..") / "secret.csv")
    (found / "twice.csv").symlink_to(found / "outside.csv")
    (found / "loop.csv").symlink_to(found / "loop.csv")
    (found / "folder").symlink_to(tmp_path / "private")
    return found


def check(found: list[Recording]) -> None:
    refused = {r.name: r.refused for r in found if r.refused}
    assert set(refused) == {"outside.csv", "relative.csv", "twice.csv"}
    assert all("a symbolic link to another folder" in said and "secret" not in said for said in refused.values())
    assert {r.name for r in found if r.values is not None} == {"good.csv", "inside.csv"}


def test_a_folder_that_is_read_once(inbox: Path) -> None:
    check(list(open_source(str(inbox), None)))  # type: ignore[arg-type]


def test_a_folder_that_is_watched(inbox: Path) -> None:
    watch, stop = WatchedFolder(Source(kind="watch", where=str(inbox), poll_seconds=0.01, after="delete")), threading.Event()
    found = []
    for recording in watch.recordings(stop, lambda _: None):
        found.append(recording)
        if len(found) == 5:
            stop.set()
    check(found)
