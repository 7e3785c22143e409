"""The second half of `make demo`: the bundle on this machine as its own device, on recordings it never saw."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

BIN = Path(sys.executable).parent


def main(runs: Path) -> None:
    shown = subprocess.run([BIN / "edgeloop", "run", "exercise_watch", "--runs", runs, "--json"], capture_output=True, text=True)
    if shown.returncode:
        sys.exit(shown.stderr)
    made = json.loads(shown.stdout)
    bundle = Path(made["folder"]) / Path(made["bundle"]).name
    with tempfile.TemporaryDirectory() as folder:
        recordings = Path(folder) / "recordings"
        run("edgeloop", "samples", "exercise_watch", recordings, "--limit", 12)
        run("edgeloop-agent", "bench", bundle, "--seconds", 0.2)
        lines = run("edgeloop-agent", "run", bundle, "--source", recordings).splitlines()
    answers = [json.loads(line) for line in lines]
    print(f"\n{'recording, never seen in training':36}{'windows':>8}  most frequent answer")
    for name in dict.fromkeys(a["input"] for a in answers):
        labels = Counter(a["label"] for a in answers if a["input"] == name)
        label, count = labels.most_common(1)[0]
        print(f"{name:36}{labels.total():8}  {label} ({count / labels.total():.0%})")
    print(f"\nreport: {bundle.with_name('report.html')}\nbundle: {bundle}")


def run(*command: object) -> str:
    """Run one of our commands and show what it says; its JSON lines are kept for the table."""
    words = [str(BIN / str(command[0])), *map(str, command[1:])]
    print("$ " + " ".join([str(command[0]), *words[1:]]), flush=True)
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    if command[1] != "run":
        print(done.stdout, end="", flush=True)
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
