"""`make loop`: the whole story on one machine, with real agents and a real hub; the network is cut, and agents are killed.

exercise_watch is trained on subjects 1, 2, 3 and 6, tested on 4 and 5, and deployed to devices worn by 7 to 10, whom it never saw;
to one whose axes are turned, and one whose gyroscope fails. Drift is raised, samples flow, a scripted labeller answers the queue
over HTTP with the recordings' true labels, cron's command retrains, the gate judges, a pilot takes the new model first, then all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from closed_loop_devices import (
    BIN,
    CONFIG,
    FAIL_FROM,
    FALSE_ALARMS,
    RANDOM_SHARE,
    SETS,
    WEARERS,
    Device,
    Recordings,
    accuracy,
)
from closed_loop_labels import label_queue, labelled, rest_came

PILOT = "worn-by-8"
KILLS = 6
CUT_SECONDS = 6.0


class Story:
    """What happens, and when."""

    def __init__(self, folder: Path, labels: int, seed: int) -> None:
        self.folder, self.labels, self.random = folder, labels, random.Random(seed)
        self.began = time.time()
        self.happened: list[tuple[float, str]] = []
        self.hub: subprocess.Popen[bytes] | None = None
        with socket.socket() as made:
            made.bind(("127.0.0.1", 0))
            self.port = int(made.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"
        self.token = ""
        self.truth = Recordings()

    def tell(self, text: str) -> None:
        self.happened.append((time.time() - self.began, text))
        print(f"{time.time() - self.began:6.1f} s  {text}", flush=True)

    def command(self, *words: object, quiet: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "EDGELOOP_HUB": self.address, "EDGELOOP_HUB_TOKEN": self.token}
        full = [str(BIN / str(words[0])), *map(str, words[1:])]
        return subprocess.run(
            full, cwd=self.folder, text=True, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None, check=False,
        )  # fmt: skip

    def must(self, *words: object) -> str:
        done = self.command(*words)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def serve_hub(self) -> None:
        with (self.folder / "hub.log").open("ab") as log:
            self.hub = subprocess.Popen(
                [BIN / "edgeloop-hub", "--data", self.folder / "hub", "serve", "--port", str(self.port)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        sys.exit("the hub does not answer; see hub.log")

    def cut(self) -> None:
        assert self.hub is not None
        self.hub.kill()
        self.hub.wait()

    def client(self) -> Any:
        from edgeloop_pipeline.fleet.hub_client import HubClient
        from edgeloop_pipeline.fleet.hub_connection import HubConnection

        return HubClient(HubConnection(self.address, self.token))


def shuffled(generator: random.Random, sets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return generator.sample(sets, k=len(sets))


def play(story: Story, devices: list[Device], half: str, seconds: float, kills: int = 0, cut_at: int = -1) -> None:
    """Everyone's recordings of a half, in a random order; some agents killed, and the hub away for a while, as it goes."""
    orders = {d.name: shuffled(story.random, story.truth.of(d.subject, half)) for d in devices}
    steps = max(map(len, orders.values()))
    killed = sorted(story.random.sample(range(steps), k=min(kills, steps)))
    back = threading.Timer(CUT_SECONDS, story.serve_hub)
    for number in range(steps):
        for device in devices:
            if number < len(orders[device.name]):
                story.truth.give(device, orders[device.name][number], half, number)
        if number == cut_at:
            story.cut()
            story.tell(f"the network is cut (the hub is killed) for {CUT_SECONDS:g} s")
            back.start()
        if number in killed:
            victim = story.random.choice(devices)
            victim.kill()
            story.tell(f"{victim.name} is killed, and starts again")
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for device in devices:
                device.look()
            time.sleep(0.05)
    if cut_at >= 0:
        back.join()
        story.tell("the network is back")
    deadline = time.monotonic() + 60
    while any(list((d.folder / "in").iterdir()) for d in devices) and time.monotonic() < deadline:
        time.sleep(0.1)
        for device in devices:
            device.look()


def drained(devices: list[Device], seconds: float = 60.0) -> int:
    """Wait until the outboxes are empty; what is left in them."""
    deadline = time.monotonic() + seconds
    while True:
        time.sleep(0.5)
        left = sum(d.look() for d in devices)
        if not left or time.monotonic() > deadline:
            return left


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, nargs="?", default=Path("runs/loop"))
    options.add_argument("--labels", type=int, default=300, help="that the scripted labeller gives at most")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--runs", type=Path, help="the pipeline's runs (default: in the folder)")
    given = options.parse_args()
    folder = given.folder.resolve()
    runs = (given.runs or folder / "runs").resolve()
    for old in ("hub", "keys", "devices", "hub.log"):
        path = folder / old
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(runs / "retrain", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    story = Story(folder, given.labels, given.seed)
    devices: list[Device] = []
    try:
        tell_it(story, devices, runs)
    finally:
        for device in devices:
            device.stop()
        if story.hub is not None:
            story.hub.terminate()
            story.hub.wait(20)


def tell_it(story: Story, devices: list[Device], runs: Path) -> None:
    sets = [word for change in SETS for word in ("--set", change)]
    story.tell("training the first model on subjects 1, 2, 3 and 6 (4 and 5 are the test set at home)")
    first = json.loads(story.must("edgeloop", "run", "exercise_watch", "--runs", runs, *sets, "--json"))
    story.serve_hub()
    story.token = story.must("edgeloop-hub", "--data", "hub", "token", "api", "loop")
    story.must("edgeloop", "keys", "init")
    target = story.must("edgeloop", "publish", first["bundle"]).split(":")[0]
    story.tell(f"{target} is published; {len(WEARERS)} devices start with it")
    for name, subject in WEARERS.items():
        device = Device(name, subject, story.folder / "devices" / name)
        (device.folder / "in").mkdir(parents=True)
        config = device.folder / "agent.toml"
        text = CONFIG.format(bundle=first["bundle"], hub=story.address, rate=FALSE_ALARMS, random=RANDOM_SHARE)
        config.write_text(text)
        token = story.must("edgeloop-hub", "--data", "hub", "token", "enrol", name)
        story.must("edgeloop-agent", "enrol", config, "--name", name, "--token", token)
        device.start()
        devices.append(device)
    play(story, devices, "A", seconds=0.6, kills=KILLS, cut_at=10)
    left = drained(devices)
    drift = {d.device: d for d in story.client().drift("exercise_watch", 86400.0).devices}
    for device in devices:
        state = drift[device.name]
        story.tell(f"{device.name}: " + (f"drift, {state.cause}: {state.text}" if state.drifting else "no drift now"))
    worn = [d for d in devices if d.name.startswith("worn")]
    before, windows = accuracy(worn, "A")
    story.tell(f"accuracy of the first model on the four new wearers: {before:.1%} of {windows} answers")
    asked = label_queue(story, story.labels)
    settled = labelled(story)
    story.tell(f"the labeller answered {asked} of the queue; {settled} samples have a label by that (one serves the recording)")
    rest_came(story)
    drained(devices)
    story.tell(f"and {labelled(story) - settled} more, which the devices held back until their recordings had a label")
    done = story.command(
        "edgeloop", "retrain", "exercise_watch", "--runs", runs, *sets, "--keys", "keys", "--steps", f"{PILOT}, 100%",
        "--soak-minutes", 0.25, "--gate", "max_label_shift=0.35",  # on devices that drifted, a better model answers differently
    )  # fmt: skip
    print(done.stdout, end="", flush=True)
    story.tell(f"edgeloop retrain: exit code {done.returncode}")
    if done.returncode:
        sys.exit(done.stderr)
    again = story.command("edgeloop", "retrain", "exercise_watch", "--runs", runs, *sets, "--keys", "keys")
    story.tell(f"and again, as cron would: exit code {again.returncode}, {again.stdout.strip()}")
    rolled_out(story, devices)
    play(story, devices, "B", seconds=0.3, kills=2)
    left = drained(devices)
    finish(story, devices, runs, left, before)


def rolled_out(story: Story, devices: list[Device]) -> None:
    """`edgeloop-hub tick`, as cron does every minute: the devices answer all they wear in between. A gate that compares answers by
    label needs recordings of every exercise: with one or two of them it would halt for the exercise, not for the model.
    """
    said, turn = "", FAIL_FROM
    deadline = time.monotonic() + 240
    while "done" not in said and time.monotonic() < deadline:
        for device in devices:
            for one in story.truth.of(device.subject, "A"):
                story.truth.give(device, one, "R", turn)
                turn += 1
            device.look()
        drained(devices)
        time.sleep(3)  # their reports come with the next poll
        new = story.must("edgeloop-hub", "--data", "hub", "tick")
        if "begins" in new or "halted" in new or "done" in new:
            story.tell(new)
        said = new
    if "done" not in said:
        sys.exit(f"the rollout did not end: {said}")


def finish(story: Story, devices: list[Device], runs: Path, left: int, before: float) -> None:
    """The table, the page, and whether anything was lost."""
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.preprocessing import prepare
    from edgeloop_pipeline.retraining.shipped_answers import right

    decision = json.loads((runs / "retrain" / "exercise_watch" / "decisions.jsonl").read_text().splitlines()[0])
    kept = sorted((runs / "retrain" / "exercise_watch").glob("*.edgeloop"), key=lambda p: p.stat().st_mtime)
    with Bundle.open(kept[0]) as opened:
        steps = opened.manifest.preprocessing
    rows = []
    for device in devices:
        if not device.name.startswith("worn"):
            continue
        values, labels = [], []
        for one in story.truth.of(device.subject, "B"):
            made = prepare(steps, story.truth.values(one)).values
            values.append(made)
            labels += [int(story.truth.labels[one[0]])] * len(made)
        old, new = (float(right(path, np.concatenate(values), np.array(labels)).mean()) for path in kept)
        live, answers = accuracy([device], "B")
        rows.append((device.name, accuracy([device], "A")[0], old, new, live, answers))
    known = {(s.device, s.key) for s in story.client().samples("exercise_watch", "all")}
    held = {(d.name, key) for d in devices for key in d.keys}
    lost = len(held - known)
    print(f"\n{'device':16}{'A, old, live':>14}{'B, old':>10}{'B, new':>10}{'B, live':>10}{'answers':>9}")
    for name, a, old, new, live, answers in rows:
        print(f"{name:16}{a:14.1%}{old:10.1%}{new:10.1%}{live:10.1%}{answers:9}")
    home = decision["verdict"]["home"]
    print(f"{'subjects 4, 5':16}{'':14}{home['champion']:10.1%}{home['challenger']:10.1%}   (the old test set)")
    print(
        f"outboxes: {len(held)} samples were ever held on disk, {lost} of them are not at the hub, {left} still wait;"
        f" {sum(d.kills for d in devices)} kills, network cut once; twice at the hub: 0 (device and key are its primary key)"
    )
    from closed_loop_page import write

    page = write(story, devices, rows, decision, lost)
    print(f"page: {page}")
    if lost:
        sys.exit("samples were lost")


if __name__ == "__main__":
    main()
