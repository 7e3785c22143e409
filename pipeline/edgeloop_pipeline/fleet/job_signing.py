"""Signs jobs for devices with the targets key: the hub that passes them on can make none."""

from __future__ import annotations

import time

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_contract.signed_jobs import (
    MAX_DEVICES,
    MAX_JOB_SECONDS,
    JobKind,
    JobOrder,
    JobSignature,
    SignedJob,
    signed_bytes,
)
from edgeloop_pipeline.fleet.hub_client import HubClient
from edgeloop_pipeline.fleet.tuf_keys import Keys


def sign(keys: Keys, order: JobOrder) -> SignedJob:
    signer, text = keys.load("targets"), msgspec.json.encode(order).decode()
    made = signer.sign(signed_bytes(text))
    return SignedJob(text, [JobSignature(made.keyid, made.signature)])


def send(keys: Keys, hub: HubClient, kind: JobKind, devices: list[str], target: str, hours: float) -> list[int]:
    """Sign a job for these devices and give it to the hub; returns the numbers, one for each hundred devices. Raises UsageError."""
    if not devices:
        raise UsageError("no device is named, or the group is empty")
    if not 0 < hours <= MAX_JOB_SECONDS / 3600:
        raise UsageError(f"--hours: a job ends within {MAX_JOB_SECONDS / 3600:g} hours, got {hours:g}")
    numbers: list[int] = []
    for begin in range(0, len(devices), MAX_DEVICES):
        number = max([int(time.time() * 1000), *(n + 1 for n in numbers)])
        order = JobOrder(number, kind, devices[begin : begin + MAX_DEVICES], number / 1000 + hours * 3600, target)
        numbers.append(hub.send_job(sign(keys, order)).number)
    return numbers
