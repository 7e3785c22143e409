"""Leave this release's bundle in tests/goldens: `python scripts/golden.py BUNDLE FOLDER`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent


def main(bundle: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(bundle, folder)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([BIN / "edgeloop", "samples", "exercise_watch", Path(scratch) / "s", "--limit", "1"], check=True)
        shutil.copy(next((Path(scratch) / "s").iterdir()), folder / "recording.csv")
    run = [BIN / "edgeloop-agent", "run", bundle, "--source", folder / "recording.csv"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    labels = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    (folder / "answers.json").write_text(json.dumps(labels) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
