"""The hub's HTTP interface, as the workstation uses it: one method for each question, answered by structs of the contract."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, urlencode

from edgeloop_contract.errors import NetworkError, UsageError
from edgeloop_contract.gate_messages import GatePower
from edgeloop_contract.hub_messages import (
    Health,
    JobCreated,
    JobRequest,
    JobStatus,
    MetadataUpload,
    PublicKey,
    PublishedBundle,
    ReceivedBytes,
    RolloutCreated,
    RolloutRequest,
    RolloutStatus,
    RolloutSummary,
    SignedMetadata,
    TargetsVersion,
)
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
from edgeloop_contract.signed_jobs import JobAsked, SignedJob, SignedJobStatus, SignedJobSummary
from edgeloop_pipeline.fleet.hub_connection import HubConnection

PART_BYTES = 4 << 20
PAGE = 200


class HubClient:
    """Every method raises NetworkError with what the hub said."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    @classmethod
    def from_environment(cls, address: str, ca_file: str = "") -> HubClient:
        """With the token of $EDGELOOP_HUB_TOKEN, or of the file that $EDGELOOP_HUB_TOKEN_FILE names. Raises UsageError."""
        token, file = os.environ.get("EDGELOOP_HUB_TOKEN", ""), os.environ.get("EDGELOOP_HUB_TOKEN_FILE", "")
        if not token and file:
            try:
                token = Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise UsageError(f"{file}: cannot be read ({error.strerror}); check EDGELOOP_HUB_TOKEN_FILE") from error
        if not token:
            raise UsageError("no token: set EDGELOOP_HUB_TOKEN to what edgeloop-hub token api printed")
        return cls(HubConnection(address, token, ca_file))

    @property
    def address(self) -> str:
        return self._connection.address

    def health(self) -> Health:
        return self._connection.get("/api/v1/health", Health)

    # Signed metadata and bundles

    def public_key(self) -> PublicKey:
        return self._connection.get("/api/v1/key", PublicKey)

    def signed(self) -> SignedMetadata:
        return self._connection.get("/api/v1/signed", SignedMetadata)

    def publish(self, metadata: MetadataUpload) -> TargetsVersion:
        return self._connection.post("/api/v1/signed", metadata, TargetsVersion)

    def bundles(self) -> list[PublishedBundle]:
        return self._connection.get("/api/v1/bundles", list[PublishedBundle])

    def upload(self, path: Path, sha256: str) -> int:
        """Send the parts of a bundle that the hub does not have yet; returns how many bytes went over the wire."""
        sent = 0
        with path.open("rb") as file:
            place = self._connection.get(f"/api/v1/uploads/{sha256}", ReceivedBytes).bytes
            file.seek(place)
            while part := file.read(PART_BYTES):
                place = self._connection.put(f"/api/v1/uploads/{sha256}/{place}", part, ReceivedBytes).bytes
                sent += len(part)
                file.seek(place)
        return sent

    def metadata_file(self, name: str) -> bytes:
        """Signed metadata, such as timestamp.json or 3.targets.json."""
        return self._connection.get_bytes(f"/tuf/metadata/{name}")

    def target_file(self, name: str) -> bytes:
        """A bundle, by DIGEST.NAME."""
        return self._connection.get_bytes(f"/tuf/targets/{name}")

    # Rollouts and jobs

    def rollouts(self) -> list[RolloutSummary]:
        return self._connection.get("/api/v1/rollouts", list[RolloutSummary])

    def rollout(self, number: int) -> RolloutStatus:
        return self._connection.get(f"/api/v1/rollouts/{number}", RolloutStatus)

    def rollout_power(self, request: RolloutRequest) -> list[GatePower]:
        """What each gate could find in each step; nothing begins."""
        return self._connection.post("/api/v1/rollouts/power", request, list[GatePower])

    def start_rollout(self, request: RolloutRequest) -> int:
        """Returns the rollout's number."""
        return self._connection.post("/api/v1/rollouts", request, RolloutCreated).id

    def change_rollout(self, number: int, verb: str) -> RolloutStatus:
        """`verb`: pause, resume or abort."""
        return self._connection.post(f"/api/v1/rollouts/{number}/{verb}", {}, RolloutStatus)

    def create_job(self, request: JobRequest) -> str:
        """Returns the job's id."""
        return self._connection.post("/api/v1/jobs", request, JobCreated).id

    def job(self, job: str) -> JobStatus:
        return self._connection.get(f"/api/v1/jobs/{job}", JobStatus)

    def send_job(self, job: SignedJob) -> SignedJobSummary:
        return self._connection.post("/api/v1/signed-jobs", job, SignedJobSummary)

    def signed_jobs(self) -> list[SignedJobSummary]:
        return self._connection.get("/api/v1/signed-jobs", list[SignedJobSummary])

    def signed_job(self, number: int) -> SignedJobStatus:
        return self._connection.get(f"/api/v1/signed-jobs/{number}", SignedJobStatus)

    def job_wishes(self) -> list[JobAsked]:
        """What people asked for on pages, and nobody has signed yet."""
        return self._connection.get("/api/v1/job-wishes", list[JobAsked])

    def forget_job_wish(self, which: str) -> None:
        self._connection.delete(f"/api/v1/job-wishes/{quote(which, safe='')}")

    def group_devices(self, group: str, after: str) -> list[str]:
        """Names of a group's devices behind the name `after`, a page of them."""
        return self._connection.get(f"/api/v1/groups/{quote(group, safe='')}/devices?{urlencode({'after': after})}", list[str])

    # Drift, samples and labels

    def drift(self, model: str, seconds: float) -> DriftSummary:
        """Over the last `seconds`."""
        return self._connection.get(f"/api/v1/drift?{urlencode({'model': model, 'seconds': seconds})}", DriftSummary)

    def queue(self, model: str, limit: int, who: str = "import") -> list[QueuedSample]:
        """What `who` is to label next, the most informative first."""
        query = urlencode({"model": model, "limit": limit, "who": who})
        return self._connection.get(f"/api/v1/queue?{query}", list[QueuedSample])

    def samples(self, model: str, which: str) -> list[ListedSample]:
        """`which`: open, labelled or all."""
        return self._connection.get(f"/api/v1/samples?{urlencode({'model': model, 'which': which})}", list[ListedSample])

    def sample_values(self, device: str, key: str) -> bytes:
        """One sample's values, as a .npy file."""
        return self._connection.get_bytes(f"/api/v1/samples/{quote(device)}/{quote(key, safe='')}/values")

    def annotations(self, device: str, key: str) -> SampleAnnotations:
        """What the model and people said of one sample. An earlier hub knows labels alone."""
        place = f"{quote(device, safe='')}/{quote(key, safe='')}"
        try:
            return self._connection.get(f"/api/v1/samples/{place}/annotations", SampleAnnotations)
        except NetworkError as error:
            if str(error).endswith(": Not Found"):
                return SampleAnnotations(device=device, key=key, model="", part="", names=[], shape=[])
            raise

    def upload_labels(self, upload: LabelUpload) -> int:
        """Returns how many samples are settled by these labels."""
        return self._connection.post("/api/v1/labels", upload, SettledSamples).settled

    def recording_labels(self, model: str) -> list[RecordingLabel]:
        """Labels of whole recordings, and whether the device has sent the other samples."""
        return self._connection.get(f"/api/v1/recordings?{urlencode({'model': model})}", list[RecordingLabel])

    def labelled(self, model: str, after: StoredSample | None) -> list[StoredSample]:
        """A page of labelled samples in the order of labelling, behind the sample `after`; empty at the end."""
        place = {} if after is None else {"at": repr(after.labelled), "device": after.device, "key": after.key}
        return self._page("labelled", model, place)

    def unlabelled(self, model: str, before: StoredSample | None) -> list[StoredSample]:
        """A page of samples without a label, the newest first, older than the sample `before`; empty at the end."""
        place = {} if before is None else {"at": repr(before.at), "device": before.device, "key": before.key}
        return self._page("unlabelled", model, place)

    def _page(self, which: str, model: str, place: dict[str, str]) -> list[StoredSample]:
        query = urlencode({"model": model, "limit": PAGE, **place})
        return self._connection.get_packed(f"/api/v1/{which}?{query}", list[StoredSample])
