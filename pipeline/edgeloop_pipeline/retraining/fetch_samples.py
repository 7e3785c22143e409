"""Field samples from the hub, page by page, as versions of a data set hold them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_contract.sample_messages import StoredSample
from edgeloop_contract.tasks import Task
from edgeloop_pipeline.data.field_data import Field
from edgeloop_pipeline.fleet.hub_client import HubClient
from edgeloop_pipeline.retraining.sample_labels import labels_of

MAX_UNLABELLED = 20_000
Log = Callable[[str], None]


def labelled(hub: HubClient, model: str, excluded: frozenset[str], task: Task, log: Log) -> Field | None:
    """All samples that have a label, without those of the `excluded` devices; None when there is none.

    `task`: of the model that answered. `log` gets a line for whatever was left out.
    """
    return field_of((s for s in _pages(hub.labelled, model) if s.device not in excluded), task, log)


def unlabelled(hub: HubClient, model: str, excluded: frozenset[str], like: Field, task: Task) -> Field | None:
    """The newest samples that nobody labelled, of the shape and type of `like`; at most MAX_UNLABELLED."""
    shape, dtype = like.values.shape[1:], str(like.values.dtype)
    alike = (
        s for s in _pages(hub.unlabelled, model) if s.device not in excluded and (tuple(s.shape), s.dtype) == (shape, dtype)
    )  # fmt: skip
    return field_of(islice(alike, MAX_UNLABELLED), task, lambda text: None)


def field_of(samples: Iterable[StoredSample], task: Task, log: Log) -> Field | None:
    """None when there is no sample. Samples of another shape or type than most are left out.

    Raises DataError for samples of several inputs.
    """
    every = list(samples)
    if several := next((s for s in every if s.others), None):
        names = ", ".join([several.input, *(other.name for other in several.others)])
        raise DataError(f"{several.model} has several inputs ({names}), and edgeloop trains with one: edgeloop labels export")
    if not every:
        return None
    shapes = [(tuple(s.shape), s.dtype) for s in every]
    usual = max(set(shapes), key=shapes.count)
    shape, dtype = usual
    alike = [s for s, own in zip(every, shapes, strict=True) if own == usual]
    if len(alike) < len(every):
        log(f"{len(every) - len(alike)} samples left out: of another shape or type than most ({list(shape)}, {dtype})")
    given = labels_of(alike, task)
    for note in given.notes:
        log(note)
    every = [alike[row] for row in given.rows]
    if not every:
        return None
    stored = np.dtype(dtype).newbyteorder("<")
    values = [np.frombuffer(zlib.decompress(s.data), stored).reshape(shape).astype(dtype) for s in every]
    return Field(
        np.stack(values),
        given.labels,
        np.array([s.device for s in every]),
        np.array([s.recording for s in every]),
        np.array([s.key for s in every]),
        np.array([s.taken for s in every]),
        np.array([bool(s.random) for s in every]),
        np.full(len(every), "train"),
        np.array([s.labelled_itself for s in every]),
        np.zeros(len(every), dtype=bool),
        np.array([s.kind == "rest" for s in every]),
        np.array(given.names, dtype=str),
    )


def _pages(page_of: Callable[[str, StoredSample | None], list[StoredSample]], model: str) -> Iterator[StoredSample]:
    last: StoredSample | None = None
    while page := page_of(model, last):  # a page may be short, because its bytes are limited too: the end is an empty one
        yield from page
        last = page[-1]
