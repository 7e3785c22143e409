"""The files for Prometheus and Grafana: right by promtool, firing when they should, over series that /metrics really has."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import command
from edgeloop_contract.rollout import Step
from edgeloop_hub.monitoring import FILES
from hub_parts import NEW, parts
from hubs import running_hub
from programs import needs, program

RULES, DASHBOARD = FILES
DAY = 86400


def expressions() -> dict[str, str]:
    found = {rule["alert"]: rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return found | {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels for target in panel["targets"]}


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program("prometheus")), *map(str, words)], capture_output=True, text=True, check=False, timeout=300)


def test_every_series_and_label_is_one_of_the_hub(tmp_path: Path) -> None:
    hub = parts(tmp_path)
    hub.bundle("m-2.edgeloop", NEW)
    hub.device("pi-1")
    hub.rollout("m-2.edgeloop", [Step(percent=100.0)])
    (tmp_path / "data" / "alerts.toml").write_text(
        'gather_seconds = 0\n[[channel]]\nname = "x"\nkind = "slack"\nurl = "http://127.0.0.1:9"\n'
    )
    with running_hub(tmp_path, keys=False) as running:
        from edgeloop_hub.storage.fleet_tables import device_states

        hub.change(device_states, silent_after=1.0)
        hub.tick()
        text = running.http.get_bytes("/metrics").decode()
    series: dict[str, dict[str, set[str]]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*?)\})? ", text, re.M):
        for label, value in re.findall(r'(\w+)="(.*?)"', labels):
            series.setdefault(name, {}).setdefault(label, set()).add(value)
        series.setdefault(name, {})
    used = set()
    for where, expression in expressions().items():
        for name, matchers in re.findall(r"\b(edgeloop_\w+)(?:\{(.*?)\})?", expression):
            used.add(name)
            assert name in series, f"{where}: {name}"
            for label, _, wanted in re.findall(r'(\w+)(=~?)"(.*?)"', matchers):
                assert set(wanted.split("|")) <= series[name][label], f"{where}: {label}"
    assert len(used) > 12


@needs("prometheus")
def test_promtool_takes_rules_and_the_dashboards_expressions(tmp_path: Path) -> None:
    done = command("edgeloop-hub", "alerts", "files", tmp_path / "out")
    assert done.returncode == 0 and sorted(path.name for path in (tmp_path / "out").iterdir()) == [RULES.name, DASHBOARD.name]
    checked = promtool("check", "rules", tmp_path / "out" / RULES.name)
    assert checked.returncode == 0 and "SUCCESS: 16 rules found" in checked.stdout, checked.stdout + checked.stderr
    rows = [{"record": f"panel:{i}", "expr": expression} for i, expression in enumerate(expressions().values())]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rows}]}))
    assert promtool("check", "rules", tmp_path / "panels.yml").returncode == 0


FIRES: dict[str, dict[str, Any]] = {  # rule: the series that make it fire at minute 60, and those that do not
    "EdgeloopHubAway": {"fires": {'up{job="edgeloop-hub"}': "0x60"}, "fine": {'up{job="edgeloop-hub"}': "1x60"}},
    "EdgeloopTickLate": {"fires": {"edgeloop_hub_last_tick_timestamp_seconds": "0x60"}, "fine": {"edgeloop_hub_last_tick_timestamp_seconds": "0+60x60"}},
    "EdgeloopTickFails": {"fires": {"edgeloop_hub_last_tick_success": "0x60"}, "fine": {"edgeloop_hub_last_tick_success": "1x60"}},
    "EdgeloopTickSlow": {"fires": {"edgeloop_hub_last_tick_duration_seconds": "90x60"}, "fine": {"edgeloop_hub_last_tick_duration_seconds": "2x60"}},
    "EdgeloopDevicesSilent": {"fires": {"edgeloop_hub_silent_devices": "1x60"}, "fine": {"edgeloop_hub_silent_devices": "0x60"}},
    "EdgeloopFleetSilent": {
        "fires": {"edgeloop_hub_silent_devices": "30x60", 'edgeloop_hub_devices{model="m",version="1"}': "60x60", 'edgeloop_hub_devices{model="n",version="1"}': "40x60"},
        "fine": {"edgeloop_hub_silent_devices": "19x60", 'edgeloop_hub_devices{model="m",version="1"}': "60x60", 'edgeloop_hub_devices{model="n",version="1"}': "40x60"},
    },
    **{
        alert: {"fires": {f'edgeloop_hub_devices_in_state{{state="{state}"}}': "2x90"}, "fine": {f'edgeloop_hub_devices_in_state{{state="{state}"}}': "0x90"}}
        for alert, state in (("EdgeloopDevicesCrash", "crashing"), ("EdgeloopDevicesRefuse", "refusing"), ("EdgeloopDevicesDrift", "drifting"))
    },
    "EdgeloopRolloutHalted": {"fires": {'edgeloop_hub_rollouts{state="halted"}': "1x60"}, "fine": {'edgeloop_hub_rollouts{state="running"}': "1x60"}},
    **{
        alert: {
            "fires": {f'edgeloop_hub_metadata_remaining_seconds{{role="{role}"}}': f"{days * DAY - 1}x60"},
            "fine": {f'edgeloop_hub_metadata_remaining_seconds{{role="{role}"}}': f"{days * DAY + 1}x60"},
        }
        for alert, role, days in (
            ("EdgeloopMetadataExpireSoon", "targets", 90.0), ("EdgeloopMetadataExpire", "root", 30.0), ("EdgeloopMetadataExpireNow", "root", 7.0),
            ("EdgeloopHubSignaturesExpire", "timestamp", 0.5),
        )
    },
    "EdgeloopDiskFull": {
        "fires": {"edgeloop_hub_disk_free_bytes": "9x60", "edgeloop_hub_disk_size_bytes": "100x60"},
        "fine": {"edgeloop_hub_disk_free_bytes": "11x60", "edgeloop_hub_disk_size_bytes": "100x60"},
    },
    "EdgeloopAlertsWait": {"fires": {'edgeloop_hub_alert_messages{channel="x",state="waiting"}': "1x800"}, "fine": {'edgeloop_hub_alert_messages{channel="x",state="sent"}': "1x800"}},
}  # fmt: skip


@needs("prometheus")
def test_each_rule_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    rules = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    assert set(FIRES) == set(rules)
    cases = []
    for alert, one in FIRES.items():
        minute = 750 if alert == "EdgeloopAlertsWait" else 80 if alert == "EdgeloopDevicesDrift" else 59
        for case in ("fires", "fine"):
            series = [{"series": name, "values": values} for name, values in one[case].items()]
            names = rules[alert]["labels"] | dict(re.findall(r'(\w+)="(.*?)"', next(iter(one[case]))))
            # promtool compares annotations too; how many alerts fire is counted instead.
            count = f'count(ALERTS{{alertname="{alert}", alertstate="firing", severity="{names["severity"]}"}}) or vector(0)'
            expected = [{"labels": "{}", "value": float(case == "fires")}]
            cases.append(
                {
                    "interval": "1m",
                    "name": f"{alert} {case}",
                    "input_series": series,
                    "promql_expr_test": [{"expr": count, "eval_time": f"{minute}m", "exp_samples": expected}],
                }
            )
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases}))
    done = promtool("test", "rules", tmp_path / "tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("panel", json.loads(DASHBOARD.read_text())["panels"], ids=lambda panel: panel["title"])
def test_panels_are_whole(panel: dict[str, Any]) -> None:
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24 and panel["datasource"]["uid"] == "${source}" and panel["targets"]
