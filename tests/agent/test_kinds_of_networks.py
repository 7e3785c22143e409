"""The agent in networks of IPv6 alone, and behind proxies."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from commands import BIN, command, sentence
from edgeloop_agent.hub_client import HubClient
from edgeloop_contract.errors import NetworkError, UsageError
from hubs import free_port, running_hub, version
from places import IPv6Only, in_namespaces
from programs import needs, program
from proxies import proxying
from service import QUICK, WATCH, WINDOWS, arrive
from serving import eventually, serving, write_config

TOKEN = "0123456789abcdef0123"
API = '[api]\nport = 8600\nhost = "::"\ntoken_file = "api.token"\n'


def asked(network: IPv6Only, address: str, path: str = "/v2", **headers: str) -> int:
    """The status of a request from that network."""

    def ask() -> int:
        with closing(http.client.HTTPConnection(address, 8600, timeout=5)) as connection:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status

    return network.call(ask)


@in_namespaces
@needs("iproute2")
def test_the_local_api_of_a_machine_without_ipv4(tmp_path: Path) -> None:
    """From the machine itself without a token, from beyond with it; Host has brackets."""
    (tmp_path / "api.token").write_text(TOKEN)
    with IPv6Only() as network, serving(tmp_path, API, inside=network.inside):
        (tmp_path / "other").mkdir()
        words = [*network.inside, BIN / "edgeloop-agent", "serve", write_config(tmp_path / "other", "")]
        ended = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=20, check=False)
        assert 'this machine has no such address: set api.host, to \\"::1\\"' in sentence(ended, 6)
        assert asked(network, "::1") == asked(network, "::1", "/") == 200
        assert asked(network, "fd00::1") == asked(network, "fd00::1", "/") == 401
        assert asked(network, "fd00::1", Authorization=f"Bearer {TOKEN}") == asked(network, "fd00::1", "/v2/health/ready") == 200
        hosts = ("[::1]", "[::1]:8600", "[fd00::1]:8600", "[fe80::1%25eth0]:8600", "[::1", "evil.example", "::1.evil.example:8600")
        assert [asked(network, "::1", Host=host) for host in hosts] == [200, 200, 200, 200, 403, 403, 403]


@in_namespaces
@needs("iproute2", "mosquitto")
@pytest.mark.long
def test_hub_broker_and_agent_without_ipv4(inbox: Path, tmp_path: Path) -> None:
    hub = "http://[fd00::1]:8700"
    with IPv6Only() as network:

        def told(*words: object, **environment: str) -> str:
            done = command("/usr/bin/env", *network.inside, BIN / str(words[0]), *words[1:], cwd=tmp_path, **environment)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        serve = ("edgeloop-hub", "--data", tmp_path / "data", "serve", "--host", "fd00::1", "--port", "8700")
        (tmp_path / "mosquitto.conf").write_text("listener 1883 ::1\nallow_anonymous true\n")
        broker = (program("mosquitto"), "-c", tmp_path / "mosquitto.conf")
        processes = [
            subprocess.Popen([*network.inside, *map(str, words)], stderr=subprocess.DEVNULL)
            for words in ((BIN / serve[0], *serve[1:]), broker)
        ]
        try:
            token = told("edgeloop-hub", "--data", tmp_path / "data", "token", "api", "t")
            eventually(lambda: network.call(lambda: socket.create_connection(("fd00::1", 8700)).close()) is None)
            told("edgeloop", "keys", "init", EDGELOOP_HUB=hub, EDGELOOP_HUB_TOKEN=token)
            settings = WATCH + QUICK + '[api]\nport = 0\nhost = "::1"\n' + f'[updates]\nhub = "{hub}"\npoll_seconds = 1\n'
            settings += '[[output]]\nwhere = "out.jsonl"\n[[output]]\nkind = "mqtt"\nhost = "::1"\nwhere = "edge/k"\n'
            config = write_config(tmp_path, settings)
            once = told("edgeloop-hub", "--data", tmp_path / "data", "token", "enrol", "pi")
            assert f"enrolled as pi at {hub}" in told("edgeloop-agent", "enrol", config, "--name", "pi", "--token", once)
            with serving(tmp_path, settings, inside=network.inside) as agent:
                arrive(inbox, "a.csv")
                eventually(lambda: len(agent.lines) == WINDOWS and "no target is assigned" in agent.log)
                eventually(lambda: 'output connected where="mqtt [::1]:1883 edge/k"' in agent.log)
                assert "worker died" not in agent.log and "output unavailable" not in agent.log
        finally:
            for process in processes:
                process.terminate()
                process.wait()


ADDRESSES = {
    "api.host": '[api]\nhost = "[::1]"\n',
    "updates.hub": '[updates]\nhub = "http://fd00::1:8700"\n',
    "updates.hub, half": '[updates]\nhub = "http://[fd00::1"\n',
    "split.tails[0].address": '[split]\nenabled = true\ntails = [{address = "http://[::1"}]\n',
    "output.host": '[output]\nkind = "mqtt"\nhost = "[::1]"\nwhere = "a/b"\n',
    "output.where": '[output]\nkind = "http"\nwhere = "http://::1:9/x"\n',
    "source.host": '[source]\nkind = "mqtt"\nwhere = "a"\nhost = "[::1]"\n',
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_ipv6_address_that_is_written_wrongly_is_named(name: str, tmp_path: Path) -> None:
    from edgeloop_agent.config import load

    with pytest.raises(UsageError, match=r"1 problem:") as found:
        load(write_config(tmp_path, ADDRESSES[name]))
    assert f"{name.partition(',')[0]}: " in str(found.value) and ("brackets" in str(found.value) or "address" in str(found.value))


@pytest.mark.parametrize(
    ("proxy", "error", "says"),
    [
        ("http://ada:s3cr3t@127.0.0.1:{none}", NetworkError, "the proxy of the environment cannot be used: .*Connection refused"),
        ("http://ada:s3cr3t-not@127.0.0.1:{port}", NetworkError, "status 407: the proxy wants a name and password"),
        ("http://ada:s3cr3t@127.0.0.1:port", UsageError, "the proxy http://127.0.0.1:port of the environment is no http"),
        ("http://ada:s3cr3t@[::1", UsageError, r"the proxy http://\[::1 of the environment is no http"),
    ],
)
def test_a_proxy_that_does_not_serve(proxy: str, error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, without the password."""
    with proxying({}, "ada:s3cr3t") as here:
        monkeypatch.setenv("HTTP_PROXY", proxy.format(port=here.port, none=free_port()))
        with pytest.raises(error, match=says) as found:
            HubClient("http://hub.invalid", "", "", 5).assignment("")
    assert "s3cr3t" not in str(found.value) and "HTTPConnection" not in str(found.value)


@pytest.mark.long
def test_a_hub_that_only_the_proxy_reaches(inbox: Path, tmp_path: Path) -> None:
    """Enrolment, report, poll, download and answers go through it; nothing stops when it goes away; its password is never said."""
    with (
        running_hub(tmp_path / "hub") as hub,
        proxying({"hub.invalid": int(hub.address.rpartition(":")[2])}, "ada:s3cr3t") as proxy,
    ):
        settings = WATCH + QUICK + '[updates]\nhub = "http://hub.invalid"\npoll_seconds = 1\nhealth_seconds = 1\n'
        config, token = write_config(tmp_path, settings), hub.run("token", "enrol", "pi")
        words = ("enrol", config, "--name", "pi", "--token", token)
        assert "hub.invalid" in sentence(command("edgeloop-agent", *words), 8)
        assert "hub.invalid" in sentence(command("edgeloop-agent", *words, HTTP_PROXY=proxy.address, NO_PROXY="hub.invalid"), 8)
        assert command("edgeloop-agent", *words, HTTP_PROXY=proxy.address).returncode == 0
        checked = command("edgeloop-agent", "check", config, HTTP_PROXY=proxy.address)
        assert f"through the proxy http://127.0.0.1:{proxy.port}" in checked.stdout and "s3cr3t" not in checked.stdout
        with serving(tmp_path, settings, HTTP_PROXY=proxy.address) as agent:
            target = hub.publish(version(tmp_path, 2))
            hub.edgeloop("rollout", "start", target, "--steps", "100%")
            eventually(lambda: "update committed" in agent.log)
            assert any(line.startswith("GET http://hub.invalid/tuf/targets/") for line in proxy.asked)
            proxy.close()
            arrive(inbox, "a.csv")
            eventually(lambda: len(agent.lines) == WINDOWS)
            eventually(lambda: "the proxy of the environment cannot be used" in agent.log)
            time.sleep(0.5)
            assert "s3cr3t" not in agent.log and "Traceback" not in agent.log
