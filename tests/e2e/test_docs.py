"""Documentation is a test subject: links lead somewhere, and every command and setting it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from commands import HERE, command

ROOT = HERE.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md")), *ROOT.glob("models/*/*/README.md")]
COMMANDS = (
    "run",
    "status",
    "why",
    "report",
    "open",
    "compare",
    "clean",
    "sbom",
    "new",
    "samples",
    "profile",
    "doctor",
    "probe",
    "pack",
    "pack-agent",
    "check-tensorrt",
    "sweep",
    "keys",
    "publish",
    "withdraw",
    "export-updates",
    "export-triton",
    "rollout",
    "bench",
    "jobs",
    "labels",
    "retrain",
    "roi",
)
HUB_COMMANDS = ("alerts", "audit", "serve", "tick", "user", "token", "device", "group", "load", "backup", "restore")
AGENT_COMMANDS = ("run", "bench", "inspect", "check", "serve", "install", "enrol", "update", "explain")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_command_has_help_and_stands_in_the_docs() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for program, names in (("edgeloop", COMMANDS), ("edgeloop-agent", AGENT_COMMANDS), ("edgeloop-hub", HUB_COMMANDS)):
        overview = command(program, "--help").stdout
        for name in names:
            shown = command(program, name, "--help")
            assert shown.returncode == 0
            assert "xit codes" in shown.stdout
            assert f"`{program} {name}" in page
            assert name in overview


def test_commands_in_the_docs_exist() -> None:
    for page in PAGES:
        code = "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text(), re.S))
        for program, name in re.findall(r"^(edgeloop|edgeloop-agent|edgeloop-hub) ([\w-]+)", code, re.M):
            known = {"edgeloop": COMMANDS, "edgeloop-agent": AGENT_COMMANDS, "edgeloop-hub": HUB_COMMANDS}[program]
            assert name in known, f"{page}: {program} {name}"


def test_settings_in_the_docs_exist() -> None:
    from edgeloop_contract.settings import fields
    from edgeloop_pipeline.recipe.settings import Target
    from edgeloop_pipeline.recipe.stage_table import STAGES, stage_class

    text = (ROOT / "docs" / "own-project.md").read_text()
    for stage in STAGES:
        known = fields(stage_class(stage, {}, ROOT))
        row = re.search(rf"^\| `{stage}` \| (.*) \|$", text, re.M)
        for name in re.findall(r"`(\w+)`", row.group(1)) if row else []:
            assert name in known, f"{stage}.{name}"
    target = re.search(r"^\| `target` \| (.*) \|$", text, re.M)
    assert target is not None
    assert set(re.findall(r"`(\w+)`", target.group(1))) == set(fields(Target))


def test_training_settings_and_their_defaults_are_those_of_the_code() -> None:
    """docs/training.md names every setting of the training loop, and no other."""
    from edgeloop_contract.settings import fields
    from edgeloop_pipeline.stages.train import Train

    table = re.findall(r"^\| (`[^|]+`) \|", (ROOT / "docs" / "training.md").read_text(), re.M)
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(fields(Train)) - {"epochs", "keep", "weight_decay"}


def test_the_readme_recipe_is_valid() -> None:
    """The stages shown in README load as part of a recipe."""
    import yaml

    block = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block is not None
    shown = yaml.safe_load(block.group(1))
    from edgeloop_pipeline.recipe import recipe

    folder = recipe.reference_projects()["fashion"]
    assert recipe.stage_problems({k: v or {} for k, v in shown["stages"].items()}, folder) == []


def test_the_agents_settings_and_their_defaults_are_those_of_the_code() -> None:
    """docs/agent.md names every setting of the config, and no other; the example config is one that is taken."""
    import msgspec

    from edgeloop_agent.config import Config, load

    text = (ROOT / "docs" / "agent.md").read_text()
    tables = {
        f.name: f.type for f in msgspec.structs.fields(Config) if isinstance(f.type, type) and issubclass(f.type, msgspec.Struct)
    }
    for name, kind in tables.items():
        row = re.search(rf"^\| `\[{name}\]` \| (.*) \|$", text, re.M)
        assert row is not None, name
        assert re.findall(r"`(\w+)`", row.group(1)) == [f.name for f in msgspec.structs.fields(kind)], name
    assert load(ROOT / "device_agent" / "agent.example.toml").source.kind == "watch"


def test_every_source_and_cleaning_step_stands_in_the_docs() -> None:
    from typing import get_args

    from edgeloop_agent.config.source_kinds import SOURCES
    from edgeloop_contract import cleaning

    text = (ROOT / "docs" / "agent.md").read_text()
    for name in (*SOURCES, *(step.__struct_config__.tag for step in get_args(cleaning.Step))):
        assert f"`{name}`" in text, name
