"""`edgeloop-hub load`: test devices come, load the hub, and are gone; it says what it measured and what it refuses to do."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from asking import ask, enrolled
from commands import BIN, command, sentence
from edgeloop_contract.errors import UsageError
from edgeloop_hub.load.connection import Address
from edgeloop_hub.load.devices import NAME
from edgeloop_hub.load.figures import Figures
from hubs import Hub, free_port, running_hub
from serving import eventually

LOAD = ("--devices", "6", "--connections", "4", "--minutes", "0.02")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


def load(hub: Hub, *words: str, token: str = "") -> subprocess.CompletedProcess[str]:
    return command("edgeloop-hub", "load", hub.address, *words, EDGELOOP_HUB_TOKEN=token or hub.token)


def names(hub: Hub) -> list[str]:
    return [row["name"] for row in hub.get("/api/v1/devices")]


def audited(hub: Hub) -> str:
    path = hub.folder / f"audit-{time.time()}"
    hub.run("audit", "export", path)
    return path.read_text()


def test_a_load_is_measured_and_leaves_no_device(hub: Hub) -> None:
    done = load(hub, *LOAD, "--drift")
    assert done.returncode == 0, done.stderr
    for kind in ("reports", "polls"):
        found = re.search(
            rf"{kind}: ([\d,]+) answered, [\d,]+ a second; p50 [\d.,]+ ms, p95 [\d.,]+ ms, p99 [\d.,]+ ms", done.stdout
        )
        assert found and int(found[1].replace(",", "")) > 5
    assert "refused" not in done.stdout and "of one core" in done.stdout
    assert "6 test devices enrolled" in done.stderr and "6 test devices removed" in done.stderr and names(hub) == []
    assert any(row["kind"] == "device deleted" for row in hub.get("/api/v1/events"))
    assert "edgeloop-hub load" in audited(hub)


def test_at_a_rate_it_sends_no_more(hub: Hub) -> None:
    done = load(hub, *LOAD, "--minutes", "0.05", "--rate", "20", "--only", "polls")
    found = re.search(r"polls: (\d+) answered", done.stdout)
    assert done.returncode == 0 and found and 40 <= int(found[1]) <= 60 and "reports" not in done.stdout


def test_ctrl_c_ends_it_and_removes_the_devices(hub: Hub) -> None:
    words = [BIN / "edgeloop-hub", "load", hub.address, "--devices", "6", "--minutes", "10"]
    with subprocess.Popen(words, env={"EDGELOOP_HUB_TOKEN": hub.token, "PATH": ""}, stdout=-1, stderr=-1, text=True) as process:
        eventually(lambda: len(names(hub)) == 6)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors and "reports: " in told and names(hub) == []


@pytest.mark.long
def test_a_killed_load_is_cleaned_up_and_other_devices_are_left_alone(hub: Hub) -> None:
    words = [BIN / "edgeloop-hub", "load", hub.address, "--devices", "6", "--minutes", "10"]
    with subprocess.Popen(words, env={"EDGELOOP_HUB_TOKEN": hub.token, "PATH": ""}, stdout=-1, stderr=-1) as process:
        eventually(lambda: len(names(hub)) == 6)
        process.kill()
    assert load(hub, *LOAD).returncode == 0  # those of the other load are test devices too
    secret = enrolled(hub, "pi-1")
    refused = load(hub, *LOAD)
    assert "pi-1" in sentence(refused, 2) and "--despite-devices WHY" in refused.stderr
    assert len(names(hub)) == 7
    done = load(hub, "--clean")
    assert done.returncode == 0 and done.stdout.strip() == "6 test devices removed" and names(hub) == ["pi-1"] and secret
    assert load(hub, *LOAD, "--despite-devices", "a night of tests").returncode == 0 and names(hub) == ["pi-1"]
    assert "a night of tests" in audited(hub)


def test_faults_are_one_sentence(hub: Hub) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    reading = hub.run("token", "api", "reader", "--scope", "read")
    cases = (
        ((nobody,), hub.token, 8, "nobody listens there"), ((hub.address,), "wrong", 8, "no such token"),
        ((hub.address, "--despite-devices", "why"), reading, 8, "scope admin"), (("ftp://a",), hub.token, 2, "write https://"),
        ((hub.address.replace("http:", "https:"),), hub.token, 8, "does the hub run there"),
        (("http://127.0.0.1:99999",), hub.token, 2, "write https://"),
    )  # fmt: skip
    for words, token, code, part in cases:
        done = command("edgeloop-hub", "load", *words, EDGELOOP_HUB_TOKEN=token)
        assert part in sentence(done, code), words
    unset = command("edgeloop-hub", "load", hub.address, EDGELOOP_HUB_TOKEN="")
    assert "EDGELOOP_HUB_TOKEN" in sentence(unset, 2)


def test_a_device_that_is_there_is_not_enrolled_again(hub: Hub) -> None:
    if "pi-1" not in names(hub):
        enrolled(hub, "pi-1")
    answer = ask(hub, "POST", "/api/v1/tokens/enrol", hub.token, {"devices": ["pi-1"], "why": "test"})
    assert answer.status == 400 and b"there is a device pi-1 already" in answer.data


def test_figures_are_percentiles_within_a_bin() -> None:
    figures = Figures()
    for i in range(1, 1001):
        figures.add(200, i / 1000)
    figures.add(429, 9.0)
    for i in range(100):
        figures.fail(f"why {i}")
    assert figures.percentile(0.5) == pytest.approx(0.5, rel=0.02) and figures.percentile(0.99) == pytest.approx(0.99, rel=0.02)
    assert figures.percentile(1.0) == pytest.approx(1.0) and figures.answered == 1000 and figures.refused == {429: 1}
    assert len(figures.failed) == 21 and len(figures.bins) < 700 and Figures().percentile(0.99) == 0.0
    assert NAME.fullmatch("load-0123abcd-000001") and not NAME.fullmatch("load-me")


def test_addresses() -> None:
    assert str(Address.of("https://hub.example.com/fleet/")) == "https://hub.example.com:443/fleet"
    assert str(Address.of("http://[::1]:8700")) == "http://[::1]:8700"
    for wrong in ("", "hub", "http://", "http://a:b", "http://me@hub", "http://hub?a", "file:///etc"):
        with pytest.raises(UsageError):
            Address.of(wrong)
