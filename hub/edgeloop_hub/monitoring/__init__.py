"""Alert rules for Prometheus and a dashboard for Grafana, over the hub's /metrics."""

from __future__ import annotations

from pathlib import Path

FILES = tuple(Path(__file__).parent / name for name in ("edgeloop-alerts.yml", "edgeloop-dashboard.json"))
