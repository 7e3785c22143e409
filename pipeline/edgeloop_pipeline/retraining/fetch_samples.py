"""Field samples from the hub, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeloop_pipeline.data import field_data
from edgeloop_pipeline.fleet.hub_client import Hub

PAGE = 200
MOST_UNLABELLED = 20_000


def labelled(hub: Hub, model: str, without: frozenset[str]) -> field_data.Field | None:
    """What people said, all of it but of the devices `without`; None when there is nothing."""
    return field_data.from_rows(r for r in _rows(hub, "labelled", "labelled", model) if r["device"] not in without)


def unlabelled(hub: Hub, model: str, without: frozenset[str], like: field_data.Field) -> field_data.Field | None:
    """The newest samples that nobody labelled, of the shape and type of `like`."""
    rows: list[dict[str, Any]] = []
    for row in _rows(hub, "unlabelled", "at", model):
        if row["device"] not in without and (tuple(row["shape"]), row["dtype"]) == (like.values.shape[1:], str(like.values.dtype)):
            rows.append(row)
        if len(rows) == MOST_UNLABELLED:
            break
    return field_data.from_rows(rows)


def _rows(hub: Hub, which: str, order: str, model: str) -> Iterator[dict[str, Any]]:
    place: dict[str, str] = {}
    while True:
        asked = "&".join(f"{k}={v}" for k, v in {"model": model, "limit": PAGE, **place}.items())
        page = hub.packed(f"/api/v1/{which}?{asked}")
        if not page:  # a page may be short: its bytes are limited, too
            return
        yield from page
        place = {"at": repr(page[-1][order]), "device": page[-1]["device"], "key": page[-1]["key"]}
