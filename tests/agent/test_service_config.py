"""Configs of the agent: problems in one sentence, `check`, and the unit that `install` writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from commands import command, sentence
from programs import needs
from service import WATCH
from serving import GOLDEN, write_config

BAD_CONFIGS: dict[str, tuple[str, str]] = {
    "not TOML": ("[source", "not TOML"),
    "misspelt": ("[sourse]\nkind = 'watch'", "sourse: unknown setting; did you mean source?"),
    "wrong type": ("[limits]\nhang_seconds = 'long'", "limits.hang_seconds: expected `float`, got `str`"),
    "below its limit": ("[limits]\nhang_seconds = 0", "limits.hang_seconds"),
    "unknown source": ("[source]\nkind = 'wacth'", "did you mean watch?"),
    "source without a place": ("[source]\nkind = 'mqtt'", "source.where: a mqtt source needs a topic"),
    "nothing to do": ("[api]\nenabled = false", "neither a source nor the API"),
    "hot below warm": ("[thermal]\nhot_celsius = 50", "thermal.hot_celsius: 50 is below warm_celsius 75"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_configs(name: str, tmp_path: Path) -> None:
    text, said = BAD_CONFIGS[name]
    (tmp_path / "agent.toml").write_text(f"bundles = ['{GOLDEN}']\n{text}\n")
    for what in ("check", "serve", "install"):
        assert said in sentence(command("edgeloop-agent", what, tmp_path / "agent.toml"), 2)


def test_check_says_what_this_device_has(tmp_path: Path) -> None:
    config = write_config(tmp_path, "[runtime]\nvariant = 'onnx-int8'\nproviders = ['CUDA']\n")
    shown = command("edgeloop-agent", "check", config)
    assert shown.returncode == 0, shown.stderr
    assert "asked for and not in this build: CUDA" in shown.stdout and "runs here: onnx-int8" in shown.stdout
    config = write_config(tmp_path, "[runtime]\nvariant = 'tflite-int8'\ndelegate = 'libnowhere.so'\n")
    assert "asked for and not loaded: libnowhere.so" in command("edgeloop-agent", "check", config).stdout
    config = write_config(tmp_path, "", tmp_path / "nowhere.edgeloop")
    assert "cannot be opened" in sentence(command("edgeloop-agent", "serve", config), 5)


@needs("systemd")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    config = write_config(tmp_path, WATCH)
    dry = command("edgeloop-agent", "install", config, "--dry-run", "--root", tmp_path / "root")
    assert dry.returncode == 0 and "WatchdogSec=40" in dry.stdout and not (tmp_path / "root").exists()
    assert command("edgeloop-agent", "install", config, "--root", tmp_path / "root").returncode == 0
    unit = tmp_path / "root/etc/systemd/system/edgeloop-agent.service"
    text = unit.read_text()
    for line in ("Type=notify", "CapabilityBoundingSet=", "ProtectSystem=strict", "User=edgeloop-agent", "Restart=always"):
        assert line in text.splitlines()
    # The user does not exist here; everything else must be known to systemd.
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "edgeloop-agent.service" in line]
    assert not complaints, complaints
    security = ["systemd-analyze", "security", "--offline=yes", "--threshold=40", unit]
    done = subprocess.run(security, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-800:]


def test_a_setting_with_an_earlier_name_is_named_with_its_new_one(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(f"bundles = ['{GOLDEN}']\n[samples]\nrest_bytes = 1\n[split]\ncut = 'device'\nbad = 1\n")
    said = command("edgeloop-agent", "check", tmp_path / "agent.toml").stderr
    assert "samples.rest_bytes: this setting is now called context_bytes" in said
    assert "split.cut: this setting is now called route" in said and "split.bad: unknown setting" in said
