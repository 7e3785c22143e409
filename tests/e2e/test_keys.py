"""Keys through the commands: encrypted ones, and each role's key replaced while a device goes on taking updates."""

from __future__ import annotations

import os
import pty
import shutil
import time
from pathlib import Path

import pytest

from commands import BIN, TINY, command
from hubs import running_hub, say_hello, version
from serving import write_config

PASSPHRASE = "a long one, with spaces"


def typed(*words: object, answers: list[str], cwd: Path, **environment: str) -> tuple[int, str]:
    """Run a command at a terminal of its own and type the answers; exit code and what the terminal showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execve(str(BIN / "edgeloop"), ["edgeloop", *map(str, words)], {**os.environ, **environment})
    shown, waiting, deadline = b"", list(answers), time.monotonic() + 60
    asked = 0
    while time.monotonic() < deadline:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
        if shown.lower().count(b"passphrase") + shown.count(b"confirmation") > asked and shown.rstrip().endswith(b":") and waiting:
            asked = shown.lower().count(b"passphrase") + shown.count(b"confirmation")
            os.write(terminal, waiting.pop(0).encode() + b"\n")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


@pytest.mark.long
def test_encrypted_keys_want_their_passphrase(tmp_path: Path) -> None:
    with running_hub(tmp_path, keys=False) as hub:
        about = {"EDGELOOP_HUB": hub.address, "EDGELOOP_HUB_TOKEN": hub.token}
        code, shown = typed("keys", "init", "--passphrase", answers=[PASSPHRASE, PASSPHRASE], cwd=tmp_path, **about)
        assert code == 0, shown
        assert PASSPHRASE not in shown, "it is not echoed"
        private = [p for p in (tmp_path / "keys").iterdir() if b"PRIVATE" in p.read_bytes()]
        assert private
        assert all(b"ENCRYPTED" in p.read_bytes() for p in private)
        assert all(p.stat().st_mode & 0o77 == 0 for p in private)
        bundle = version(tmp_path, 2)
        code, shown = typed("publish", bundle, "--passphrase", answers=["wrong"], cwd=tmp_path, **about)
        assert code == 2, shown
        assert "Traceback" not in shown
        without = command("edgeloop", "publish", bundle, cwd=tmp_path, **about)
        assert without.returncode == 2
        assert "passphrase" in without.stderr
        retraining = command("edgeloop", "retrain", TINY, cwd=tmp_path, **about)
        assert retraining.returncode == 2 and "passphrase" in retraining.stderr, "before anything is trained"
        code, shown = typed("publish", bundle, "--passphrase", answers=[PASSPHRASE], cwd=tmp_path, **about)
        assert code == 0, shown
        assert "published" in shown
        file = tmp_path / "passphrase"
        unread = command("edgeloop", "publish", bundle, cwd=tmp_path, **about, EDGELOOP_PASSPHRASE_FILE=str(file))
        assert unread.returncode == 2 and "EDGELOOP_PASSPHRASE_FILE" in unread.stderr
        file.write_text(f"{PASSPHRASE}\n")
        again = command("edgeloop", "publish", version(tmp_path, 3), cwd=tmp_path, **about, EDGELOOP_PASSPHRASE_FILE=str(file))
        assert again.returncode == 0, again.stderr


@pytest.mark.long
@pytest.mark.parametrize("role", ["root", "targets"])
def test_a_key_is_replaced_and_the_old_one_counts_no_more(tmp_path: Path, role: str) -> None:
    with running_hub(tmp_path) as hub:
        config = write_config(tmp_path, f'[updates]\nhub = "{hub.address}"\n')
        hub.enrol(config, "pi-1")
        assert command("edgeloop-agent", "update", config).returncode == 0
        stolen = Path(shutil.copytree(tmp_path / "keys", tmp_path / "stolen"))
        assert "the old one counts no more" in hub.edgeloop("keys", "rotate", role)
        about = {"EDGELOOP_HUB": hub.address, "EDGELOOP_HUB_TOKEN": hub.token}
        if role == "targets":
            refused = command("edgeloop", "publish", version(tmp_path, 4), "--keys", stolen, **about)
        else:  # the thief has all the old root keys, and makes a root of their own
            refused = command("edgeloop", "keys", "rotate", "root", "--keys", stolen, **about)
        assert refused.returncode != 0, refused.stdout
        assert "Traceback" not in refused.stderr
        target = hub.publish(version(tmp_path, 3))
        say_hello(hub, tmp_path)
        hub.edgeloop("rollout", "start", target, "--steps", "100%", "--soak-minutes", "0.001")
        done = command("edgeloop-agent", "update", config)
        assert done.returncode == 0, done.stderr
        assert "is staged" in done.stdout, "the device follows the new root, and trusts what the new key signed"


@pytest.mark.long
def test_the_hubs_own_key_is_replaced(tmp_path: Path) -> None:
    """Somebody may have copied it: the hub makes another, and the root says so. Until then it signs nothing; afterwards devices follow."""
    with running_hub(tmp_path) as hub:
        config = write_config(tmp_path, f'[updates]\nhub = "{hub.address}"\n')
        hub.enrol(config, "pi-1")
        assert command("edgeloop-agent", "update", config).returncode == 0
        token, port = hub.token, int(hub.address.rpartition(":")[2])
    (tmp_path / "data" / "online-key.pem").rename(tmp_path / "stolen.pem")
    with running_hub(tmp_path, keys=False, port=port) as hub:
        hub.token = token
        refused = hub.edgeloop("publish", version(tmp_path, 3), code=8)
        assert "edgeloop keys rotate online" in refused
        assert "the old one counts no more" in hub.edgeloop("keys", "rotate", "online")
        target = hub.publish(version(tmp_path, 3))
        say_hello(hub, tmp_path)
        hub.edgeloop("rollout", "start", target, "--steps", "100%", "--soak-minutes", "0.001")
        done = command("edgeloop-agent", "update", config)
        assert "is staged" in done.stdout, (done.stdout, done.stderr)
