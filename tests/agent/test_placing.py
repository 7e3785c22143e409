"""What commands put where the service reads it; odd paths, no home, IPv6 addresses, proxies."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from commands import command, sentence
from edgeloop_agent import device_state
from edgeloop_agent.addresses import authority, local
from edgeloop_agent.checking import _sound, _updates
from edgeloop_agent.config import load
from edgeloop_agent.connection_pool import pool, proxy_of
from edgeloop_agent.install import plan, service_state, unit_of
from edgeloop_agent.updates.file_owner import state_owner
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import UsageError
from edgeloop_contract.preprocessing import LogMel
from fakes.repository import Repository
from serving import GOLDEN, serving, write_config

HUB = '[updates]\nhub = "http://hub.example:8700"\n'


def installed(config: Path, root: Path, user: str = "nobody") -> None:
    """The unit of a service for this config, in another file system."""
    unit = root / "etc/systemd/system/edgeloop-agent.service"
    unit.parent.mkdir(parents=True)
    text = unit_of(load(config), config.resolve(), "/usr/bin/edgeloop-agent")
    unit.write_text(text.replace("User=edgeloop-agent", f"User={user}"))


def config_of(folder: Path, text: str = HUB) -> Path:
    path = folder / "agent.toml"
    path.write_text(f'bundles = ["{GOLDEN}"]\n{text}')
    return path


@pytest.mark.parametrize("name", ["plain", "a folder", 'with "quotes"', "100%n of $HOME", "back\\slash", "apo'strophe"])
def test_the_unit_takes_any_path(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    source = '[source]\nkind = "watch"\nwhere = "in box"\nafter = "delete"\n[output]\nwhere = "out/answers.jsonl"\n'
    config = config_of(folder, source + HUB)
    installed(config, tmp_path / "root")
    assert service_state(config, tmp_path / "root") == tmp_path / "root/var/lib/edgeloop-agent"
    assert service_state(config_of(tmp_path), tmp_path / "root") is None  # of another config
    lines = (tmp_path / "root/etc/systemd/system/edgeloop-agent.service").read_text().splitlines()
    paths = next(line for line in lines if line.startswith("ReadWritePaths="))
    assert paths.count('"') - paths.count('\\"') == 4
    if "%" in name:
        assert "100%%n of $$HOME" in next(line for line in lines if line.startswith("ExecStart=")) and "%%n of $HOME" in paths
    shown = command("edgeloop-agent", "install", config, "--dry-run", "--root", tmp_path / "image")
    assert shown.returncode == 0, shown.stderr


def test_a_path_that_systemd_cannot_take_is_refused(tmp_path: Path) -> None:
    (tmp_path / "two\nlines").mkdir()
    config = config_of(tmp_path / "two\nlines")
    assert "systemd does not accept such a name" in sentence(command("edgeloop-agent", "install", config, "--dry-run"), 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_what_root_enrols_the_service_can_read(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "stick")
    config = config_of(tmp_path)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(0o755)
    installed(config, tmp_path / "root")
    script = (
        "import sys; from pathlib import Path\nfrom edgeloop_agent.config import load\n"
        "from edgeloop_agent.updates.file_owner import state_owner\nfrom edgeloop_agent.updates.enrolment import trust\n"
        "config, root, trusted = map(Path, sys.argv[1:])\nprint(trust(state_owner(load(config), config, 'enrol', root), trusted))\n"
    )
    (tmp_path / "1.root.json").write_bytes(repository.first_root)
    words = [sys.executable, "-c", script, config, tmp_path / "root", tmp_path / "1.root.json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept = tmp_path / "root/var/lib/edgeloop-agent/updates/root.json"
    assert kept.stat().st_uid == pwd.getpwnam("nobody").pw_uid and kept.parent.stat().st_mode & 0o077 == 0
    shown = list(_updates(state_owner(load(config), config, root=tmp_path / "root").config, config))
    assert any(line.startswith("trusted keys: root version 1") for line in shown)
    assert any("enrolment: none yet" in line for line in shown)
    assert any("warning: updates.hub: http://hub.example:8700 is not encrypted" in line for line in shown)


def test_who_is_not_the_services_user_is_told_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    installed(config, tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UsageError, match="run: sudo edgeloop-agent enrol"):
        state_owner(load(config), config, "edgeloop-agent enrol agent.toml", tmp_path)
    assert state_owner(load(config), tmp_path / "other.toml", "enrol", tmp_path).user == ""


def test_install_takes_over_what_was_enrolled_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELOOP_STATE", str(tmp_path / "mine"))
    (tmp_path / "mine/updates").mkdir(parents=True)
    for name in ("root.json", "credential.json"):
        (tmp_path / "mine/updates" / name).write_text("{}")
    commands = [" ".join(a.command) for a in plan(load(config_of(tmp_path)), tmp_path / "agent.toml", Path("/")) if a.command]
    wanted = f"install -o edgeloop-agent -g edgeloop-agent -m 0600 {tmp_path}/mine/updates/credential.json /var/lib/edgeloop-agent/updates/credential.json"
    assert wanted in commands


def test_check_tells_of_updates_and_keys(tmp_path: Path) -> None:
    shown = command("edgeloop-agent", "check", write_config(tmp_path, HUB)).stdout
    for line in (
        "trusted keys: none yet; run edgeloop-agent enrol",
        "enrolment: none yet",
        "warning: updates.hub: http://hub.example",
    ):
        assert line in shown
    assert "updates: off" in command("edgeloop-agent", "check", write_config(tmp_path, "")).stdout


def test_check_compares_the_microphone_with_the_model(tmp_path: Path) -> None:
    class Manifest:
        preprocessing = (LogMel(rate_hz=16000, window=512, hop=256, bands=16),)

    def said(rate: int, channels: int = 1) -> str:
        text = f'[source]\nkind = "microphone"\nrate_hz = {rate}\nchannels = {channels}\n'
        return " ".join(_sound(load(config_of(tmp_path, text)), Manifest))

    assert "warning: source.rate_hz: 8000 Hz, the model was trained on 16000 Hz" in said(
        8000
    ) and "above 4000 Hz is missing" in said(8000)
    assert said(44100) == "sound: resampled from 44100 Hz to the model's 16000 Hz"
    assert said(16000) == "" and "2 channels are mixed" in said(16000, 2)


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    for name in ("EDGELOOP_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = device_state.default_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700 and device_state.default_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="is not this user's alone; set state in the config"):
        device_state.default_folder()
    folder.rmdir()
    folder.symlink_to("/etc")
    with pytest.raises(UsageError, match="is not this user's alone"):
        device_state.default_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_container_with_a_user_of_its_own_serves(tmp_path: Path) -> None:
    script = (
        "import os, pwd, tempfile\nfrom edgeloop_agent.device_state import default_folder\n"
        "os.environ.pop('HOME', None); os.environ.pop('XDG_STATE_HOME', None); os.environ.pop('EDGELOOP_STATE', None)\n"
        "os.setgid(4242); os.setuid(4242)\nprint(default_folder())"
    )
    (tmp_path / "tmp").mkdir(mode=0o777)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(0o755)
    (tmp_path / "tmp").chmod(0o1777)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    assert done.stdout.strip() == str(tmp_path / "tmp/edgeloop-agent-4242"), done.stderr


def test_addresses_of_ipv6(tmp_path: Path) -> None:
    assert authority("::1", 8600) == "[::1]:8600" and authority("127.0.0.1", 1) == "127.0.0.1:1"
    assert local("::") == "::1" and local("0.0.0.0") == "127.0.0.1"
    with serving(tmp_path, '[api]\nport = 0\nhost = "::1"\n') as agent:
        assert agent.address.startswith("http://[::1]:") and "edgeloop-agent" in agent.get("/v2")
        split = (tmp_path / "agent.toml").read_text() + '[split]\nenabled = true\ntails = [{address = "http://127.0.0.1:9"}]\n'
        (tmp_path / "explain.toml").write_text(split)
        port = agent.address.rpartition(":")[2]
        done = command("edgeloop-agent", "explain", tmp_path / "explain.toml", "--port", port)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """One that answers by itself, and remembers what it was asked."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Proxy-Authorization', '')}")
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"hi")

        def log_message(self, *words: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_the_environments_proxies_are_used(proxy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    where, asked = proxy
    monkeypatch.setenv("HTTP_PROXY", f"http://ada:p%40ss@{where}")
    with pool("http://hub.example:8700", retries=False) as http:
        assert http.request("GET", "http://hub.example:8700/a", timeout=5).data == b"hi"
    assert asked == ["http://hub.example:8700/a Basic YWRhOnBAc3M="]
    for address in ("http://127.0.0.1:1", "http://localhost:8700", "http://[::1]:8700", "https://hub.example"):
        assert proxy_of(address) == ""
    monkeypatch.setenv("HTTPS_PROXY", where)
    assert proxy_of("https://hub.example") == f"http://{where}"
    for bypass in ("hub.example", ".example", "*", "10.0.0.0/8,hub.example:8700"):
        monkeypatch.setenv("NO_PROXY", bypass)
        assert proxy_of("http://hub.example:8700") == ""
    assert proxy_of("http://10.1.2.3") == "" and proxy_of("http://11.1.2.3")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTP_PROXY", "socks5://somewhere:1080")
    with pytest.raises(UsageError, match="the proxy socks5://somewhere:1080 of the environment"):
        pool("http://hub.example")
    pool("http://hub.example", use_proxies=False)


def test_every_client_takes_them_and_can_be_told_not_to(
    proxy: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeloop_agent.hub_client import HubClient
    from edgeloop_agent.offload.tails import Tail
    from edgeloop_pipeline.fleet.hub_connection import HubConnection

    where, asked = proxy
    monkeypatch.setenv("HTTP_PROXY", f"http://{where}")
    assert b"".join(HubClient("http://hub.example", "", "", 5).metadata("1.root.json")) == b"hi"
    assert Tail("http://tails.example", {}, "", 5).probe() > 0
    assert HubConnection("http://hub.example", "x").get_bytes("/a") == b"hi"
    assert [line.split()[0] for line in asked[:2]] == ["http://hub.example/tuf/metadata/1.root.json", "http://tails.example/v2"]
    before = len(asked)
    assert not HubClient("http://hub.invalid", "", "", 5, use_proxies=False)._http.proxy
    config = write_config(tmp_path, HUB + "[network]\nuse_proxies = false\n")
    done = command("edgeloop-agent", "enrol", config, "--name", "pi-1", "--token", "x", HTTP_PROXY=f"http://{where}")
    assert done.returncode == 8 and len(asked) == before
    with Bundle.open(GOLDEN) as bundle:
        assert bundle.manifest.name
