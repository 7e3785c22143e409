"""The agent on emulated Raspberry Pi cores: an arm64 Debian root with Python, the device's wheels for aarch64, qemu around them.

Needs apt-get and dpkg-deb (Debian or a child of it), and no rights; everything goes into one folder (default .arm64), which is
used again. Emulation shows that wheels exist, import and compute the same; it says nothing of speed.

    python scripts/arm64.py [--folder .arm64] [--bundle FILE ...] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "http://deb.debian.org/debian bookworm main"
PACKAGES = ["python3.11-minimal", "libpython3.11-stdlib", "libstdc++6"]
CORES = {"cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}
# onnxruntime looks for the core's kind here, and crashes on import where it finds nothing.
CPUINFO = {"cortex-a72": "0xd08", "cortex-a76": "0xd0b"}
WHEELS = ["numpy", "msgspec", "prometheus-client", "onnxruntime", "ai-edge-litert"]
DOWNLOAD_SECONDS, RUN_SECONDS = 600, 900


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".arm64")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="one more beside the golden one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    machine = Machine(options.folder.resolve())
    machine.make()
    bundles = [next((ROOT / "tests" / "goldens").glob("v*/*.edgeloop")), *options.bundle]
    rows = [row for core in CORES for bundle in bundles for row in machine.compare(core, bundle.resolve())]
    print(json.dumps(rows) if options.json else table(rows))
    machine.agent(next(iter(CORES)), bundles[0])
    return int(any(row["max_lsb"] is None or row["max_lsb"] > row["allowed_lsb"] for row in rows))


class Machine:
    """One folder: `root` (Debian, arm64), `site` (wheels), `own` (this project), `bin` (qemu)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.site = folder, folder / "root", folder / "site"

    def make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # apt downloads as a user of its own
        for part, make in (("root", self._root), ("site", self._site)):
            if not (self.folder / f"{part}.ready").exists():
                shutil.rmtree(self.folder / part, ignore_errors=True)
                make()
                (self.folder / f"{part}.ready").touch()
        self._own()
        self.qemu = shutil.which("qemu-aarch64-static") or self._qemu()

    def _root(self) -> None:
        options = self._apt()
        run(["apt-get", *options, "update", "-q"])
        names = self._closure(options)
        debs = self.folder / "debs"
        debs.mkdir(exist_ok=True)
        run(["apt-get", *options, "download", "-q", *names], cwd=debs)
        for deb in debs.glob("*.deb"):
            run(["dpkg-deb", "-x", str(deb), str(self.root)])
        shutil.rmtree(debs)

    def _apt(self) -> list[str]:
        """A package manager's state of our own, for another architecture than this machine's."""
        if not KEYRING.exists():
            sys.exit(f"arm64: {KEYRING} is missing; this needs Debian, or a system with its debian-archive-keyring package")
        state = self.folder / "apt"
        for name in ("lists/partial", "cache/archives/partial", "etc"):
            (state / name).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        (state / "etc/sources.list").write_text(f"deb [signed-by={KEYRING} arch=arm64] {SUITE}\n")
        settings = {
            "APT::Architecture": "arm64", "APT::Architectures": "arm64", "Dir::State": state, "Dir::State::Lists": state / "lists",
            "Dir::State::status": state / "status", "Dir::Cache": state / "cache", "Dir::Etc::SourceParts": "-",
            "Dir::Etc::SourceList": state / "etc/sources.list", "APT::Sandbox::User": "root", "Debug::NoLocking": "true",
        }  # fmt: skip
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def _closure(self, options: list[str]) -> list[str]:
        """The packages and everything they depend on."""
        words = ["apt-cache", *options, "depends", "--recurse", "--important", "--no-conflicts", "--no-breaks", "--no-replaces"]
        lines = run([*words, *PACKAGES]).splitlines()
        return sorted({line.strip() for line in lines if line and not line.startswith((" ", "<", "|"))})

    def _site(self) -> None:
        words = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(self.site)]
        # glibc 2.36 is bookworm's; pip wants every older one named.
        platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)] + ["manylinux2014_aarch64"]
        target = ["--only-binary=:all:", *(word for platform in platforms for word in ("--platform", platform))]
        target += ["--python-version", "3.11", "--implementation", "cp"]
        target += ["--abi", "cp311", "--abi", "abi3", "--abi", "none"]
        run([*words, *target, *pinned(WHEELS)])

    def _own(self) -> None:
        """This project as it is now, as a wheel: always anew."""
        shutil.rmtree(self.folder / "own", ignore_errors=True)
        words = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        run([*words, "--target", str(self.folder / "own"), str(ROOT)])

    def _qemu(self) -> str:
        """Unpacked where it is not installed."""
        binary = self.folder / "bin/usr/bin/qemu-aarch64-static"
        if not binary.exists():
            debs = self.folder / "bin"
            debs.mkdir(exist_ok=True)
            debs.chmod(0o777)
            run(["apt-get", "download", "-q", "qemu-user-static"], cwd=debs)
            run(["dpkg-deb", "-x", str(next(debs.glob("*.deb"))), str(debs)])
        return str(binary)

    def python(self, core: str, *words: str, stdin: str | None = None, keep: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run Python on an emulated core. `keep`: a descriptor that it inherits."""
        (self.root / "proc").mkdir(exist_ok=True)
        (self.root / "proc/cpuinfo").write_text(cpuinfo(CPUINFO[core]))
        path = f"{self.folder / 'own'}:{self.site}"
        environment = {
            "PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(self.folder), "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        command = [self.qemu, "-cpu", core, "-L", str(self.root), str(self.root / "usr/bin/python3.11"), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_SECONDS, env=environment, input=stdin, check=False,
            pass_fds=() if keep is None else (keep,),
        )  # fmt: skip

    def compare(self, core: str, bundle: Path) -> list[dict[str, Any]]:
        """Every int8 variant's scores of the canary, there and here."""
        script = str(ROOT / "scripts" / "arm64_scores.py")
        done = self.python(core, script, str(bundle))
        if done.returncode:
            sys.exit(f"arm64: {core}: {done.stderr.strip()[-2000:] or f'exit code {done.returncode}'}")
        here = run([sys.executable, script, str(bundle)])
        there = json.loads(done.stdout)
        rows = []
        for name, theirs in json.loads(here)["variants"].items():
            pairs = list(zip(theirs["scores"], there["variants"][name]["scores"], strict=True))
            step = there["step"]
            lsb = max(round(abs(a - b) / step) for row, other in pairs for a, b in zip(row, other, strict=True))
            same = sum(row.index(max(row)) == other.index(max(other)) for row, other in pairs) / len(pairs)
            found = {"core": core, "bundle": bundle.name, "variant": name, "machine": there["machine"]}
            found |= {"runtime": there["variants"][name]["runtime"], "inputs": len(pairs), "max_lsb": lsb, "top1": same}
            rows.append({**found, "allowed_lsb": there["allowed_lsb"]})
        return rows

    def agent(self, core: str, bundle: Path) -> None:
        """The agent itself: a recording answered, and one that does not fit refused; its service's parts imported."""
        recording = bundle.parent / "recording.csv"
        done = self.python(core, "-m", "edgeloop_agent.cli", "run", str(bundle), "--source", str(recording))
        expected = json.loads((bundle.parent / "answers.json").read_text())
        labels = [json.loads(line)["label"] for line in done.stdout.splitlines()]
        if done.returncode or labels != expected:
            sys.exit(f"arm64: the agent on {core} answers {labels[:5]}, expected {expected[:5]}; {done.stderr.strip()[-500:]}")
        refused = self.python(core, "-m", "edgeloop_agent.cli", "run", str(bundle), "--source", "-", stdin='{"values": [[1, 2]]}\n')
        if refused.returncode != 3 or "a window needs" not in refused.stdout:
            sys.exit(f"arm64: the agent on {core} does not refuse a sample that does not fit: {refused.stdout} {refused.stderr}")
        answered = self._worker(core, bundle, recording)
        if [line["label"] for line in answered] != expected:
            sys.exit(
                f"arm64: the service on {core} answers {[line.get('label') for line in answered][:5]}, expected {expected[:5]}"
            )
        print(f"agent on {core} ({CORES[core]}): {len(labels)} windows answered as here, by command and service")

    def _worker(self, core: str, bundle: Path, recording: Path) -> list[dict[str, Any]]:
        """The service's worker, which chooses its variant by measuring; qemu cannot start it from a supervisor."""
        folder = self.folder / "service"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        config = folder / "agent.toml"
        config.write_text(
            f'bundles = ["{bundle}"]\nstate = "state"\n[source]\nkind = "file"\nwhere = "{recording}"\nwhen_full = "block"\n'
            '[output]\nwhere = "out.jsonl"\n[api]\nenabled = false\n[runtime]\nmeasure_seconds = 0.05\n'
        )
        with (folder / "signs").open("wb") as signs:
            done = self.python(core, "-m", "edgeloop_agent.worker", str(config), str(signs.fileno()), keep=signs.fileno())
        if done.returncode:
            sys.exit(f"arm64: the service on {core}: {done.stderr.strip()[-800:]}")
        return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def pinned(names: list[str]) -> list[str]:
    """At the versions that are tested together."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    known = {line.partition("==")[0].lower().replace("_", "-"): line for line in lines if "==" in line}
    return [known.get(name, name) for name in names]


def cpuinfo(part: str) -> str:
    features = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid" + (
        " atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp" * (part == "0xd0b")
    )
    core = f"BogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
    return "".join(f"processor\t: {i}\n{core}CPU part\t: {part}\nCPU revision\t: 3\n\n" for i in range(4))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'core':12}{'bundle':28}{'variant':14}{'runtime':26}{'inputs':>7}{'LSB':>5}{'top-1':>8}"]
    for r in rows:
        lines.append(
            f"{r['core']:12}{r['bundle']:28}{r['variant']:14}{r['runtime']:26}{r['inputs']:7}{r['max_lsb']:5}{r['top1']:8.2%}"
        )
    return "\n".join(lines)


def run(command: list[str], cwd: Path | None = None) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"arm64: {command[0]}: {error}")
    if done.returncode:
        sys.exit(f"arm64: {' '.join(command[:1] + command[-3:])} failed: {(done.stderr.strip() or done.stdout.strip())[-800:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
