"""The HTTP interface for samples: devices send them, the workstation and cron label and fetch them."""

from __future__ import annotations

import io
import threading
import zipfile
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from litestar import Controller, Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotAuthorizedException, NotFoundException, TooManyRequestsException
from litestar.params import Parameter

from edgeloop_contract.messages import Samples as SampleUpload
from edgeloop_contract.sample_messages import (
    DriftSummary,
    LabelUpload,
    ListedSample,
    QueuedSample,
    RecordingLabel,
    SampleAnnotations,
    SettledSamples,
    StoredSample,
)
from edgeloop_hub.auth import quota
from edgeloop_hub.auth.accounts import own_name
from edgeloop_hub.auth.guards import asking, is_device, is_workstation
from edgeloop_hub.drift.reports import faulty
from edgeloop_hub.drift.summary import summary
from edgeloop_hub.http.error_responses import documents_errors
from edgeloop_hub.samples import annotating, ingest, label_queue, labelling, sample_store
from edgeloop_hub.samples.values import arrays_of
from edgeloop_hub.storage.database import Database

PAGE = Annotated[int, Parameter(ge=1, le=1000)]
UNPACKING_SECONDS = 3.0  # that an upload waits for others
UNPACKING = threading.BoundedSemaphore(2)  # uploads that are unpacked at a time; others answer meanwhile
SECONDS = Annotated[float, Parameter(ge=1, le=3.2e7)]


@documents_errors(400, 401, 503)
class DeviceSamples(Controller):
    """For devices."""

    path = "/api/v1/outbox"
    tags = ["devices"]

    @post(
        guards=[is_device], sync_to_thread=True, status_code=200, raises=[NotAuthorizedException, TooManyRequestsException],
    )  # fmt: skip
    def bring(self, body: bytes, state: State, request: Request[Any, Any, Any]) -> None:
        """Samples and events of an outbox, as MessagePack, each stored once. The answer comes when all of it is stored."""
        upload, device, hub = ingest.decode(body), asking(request), state.hub
        ingest.check_sizes(upload, hub.settings)
        with hub.database.writing(ordered=False) as database:
            admitted = ingest.admit(database, device, upload, hub.settings)
            if not admitted:
                quota.note_refusal(database, device.name)
        if admitted:
            answers = _checked(upload, hub.database)  # while the database is free for others
            for lot in ingest.lots(upload):
                with hub.database.writing(ordered=False) as database:
                    admitted = admitted and ingest.store(database, device, lot, hub.settings, answers)
        if not admitted:
            raise TooManyRequestsException("more than this device may send: samples in a day, events in an hour")


@documents_errors(400, 401, 403, 503)
class Samples(Controller):
    """For the workstation and cron: label, look, fetch."""

    path = "/api/v1"
    guards = [is_workstation]
    tags = ["samples"]

    @get("/queue", sync_to_thread=True)
    def queue(self, state: State, model: str = "", who: str = "import", limit: PAGE = 50) -> list[QueuedSample]:
        """Samples to label next, the most informative first, one of each group of near-duplicates."""
        with state.hub.database.reading() as database:
            return label_queue.waiting(database, model, who[:63], limit, faulty(database))

    @post("/labels", scope="label", sync_to_thread=True, status_code=200)
    def label(self, data: LabelUpload, state: State) -> SettledSamples:
        """Store labels of one person; how many samples are settled by them."""
        settled, who = 0, data.who if data.who == "import" else own_name(data.who, "who")
        with state.hub.database.writing() as database:
            for one in data.labels:
                if one.annotation is not None:
                    settled += annotating.annotate(database, one.device, one.key, who, one.annotation, state.hub.settings)
                elif one.label:
                    settled += labelling.label(database, one.device, one.key, who, one.label, state.hub.settings, one.whole)
                else:
                    labelling.skip(database, one.device, one.key)
        return SettledSamples(settled)

    @get("/samples", sync_to_thread=True)
    def samples(self, state: State, model: str = "", which: Literal["open", "labelled", "all"] = "all") -> list[ListedSample]:
        """Samples without their data."""
        with state.hub.database.reading() as database:
            return sample_store.listed(database, model, which)

    @get("/recordings", sync_to_thread=True)
    def recordings(self, state: State, model: str = "") -> list[RecordingLabel]:
        """Labels of whole recordings; `released`: when the device had nothing of it left to send."""
        with state.hub.database.reading() as database:
            return labelling.recording_labels(database, model)

    @get("/samples/{device:str}/{key:str}/values", sync_to_thread=True, raises=[NotFoundException])
    def values(self, device: str, key: str, state: State) -> Response[bytes]:
        """One sample as a .npy file; as an .npz file by input where the model has several."""
        with state.hub.database.reading() as database:
            row = sample_store.find(database, device, key)
        if row is None:
            raise NotFoundException("there is no such sample")
        file, arrays = io.BytesIO(), arrays_of(row)
        if len(arrays) == 1:
            np.save(file, next(iter(arrays.values())), allow_pickle=False)
        else:
            with zipfile.ZipFile(file, "w") as zipped:  # np.savez takes names for its own arguments
                for name, values in arrays.items():
                    with zipped.open(f"{name}.npy", "w") as entry:
                        np.save(entry, values, allow_pickle=False)
        return Response(file.getvalue(), media_type="application/octet-stream")

    @get("/samples/{device:str}/{key:str}/annotations", sync_to_thread=True, raises=[NotFoundException])
    def annotations_of(self, device: str, key: str, state: State) -> SampleAnnotations:
        """What the model answered to one sample, what each person said of it, and what they agreed on."""
        with state.hub.database.reading() as database:
            known = annotating.of_sample(database, device, key)
        if known is None:
            raise NotFoundException("there is no such sample")
        return known

    @get("/labelled", sync_to_thread=True, media_type="application/msgpack")
    def labelled(
        self, state: State, model: str, at: float = 0.0, device: str = "", key: str = "", limit: PAGE = 200
    ) -> Response[bytes]:
        """Labelled samples with their data, as MessagePack, in the order of labelling, behind the place (at, device, key)."""
        with state.hub.database.reading() as database:
            return _packed(sample_store.labelled_after(database, model, (at, device, key), limit))

    @get("/unlabelled", sync_to_thread=True, media_type="application/msgpack")
    def unlabelled(
        self, state: State, model: str, at: float = 1e12, device: str = "", key: str = "", limit: PAGE = 200
    ) -> Response[bytes]:
        """Samples without a label with their data, as MessagePack, the newest first, older than the place (at, device, key)."""
        with state.hub.database.reading() as database:
            return _packed(sample_store.open_before(database, model, (at, device, key), limit))

    @get("/drift", sync_to_thread=True)
    def drift(self, state: State, model: str, seconds: SECONDS = 86400.0) -> DriftSummary:
        """Devices, discoveries over the fleet, and the accuracy that confidence promises."""
        with state.hub.database.reading() as database:
            return summary(database, model, seconds)


def _checked(upload: SampleUpload, database: Database) -> dict[str, bytes]:
    """The answers to keep. Raises DataError for what is damaged, TooManyRequestsException while others' uploads are unpacked."""
    if not UNPACKING.acquire(timeout=UNPACKING_SECONDS):
        raise TooManyRequestsException("other uploads are being unpacked; come again later", headers={"Retry-After": "10"})
    try:
        ingest.check_all(upload)
        with database.reading() as connection:
            return ingest.answers(connection, upload)
    finally:
        UNPACKING.release()


def _packed(page: list[StoredSample]) -> Response[bytes]:
    return Response(msgspec.msgpack.encode(page))


HANDLERS = (DeviceSamples, Samples)
