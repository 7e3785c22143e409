"""The file alerts.toml: every fault is one sentence, and the file that the docs show is right."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from commands import command, sentence
from edgeloop_contract.errors import UsageError
from edgeloop_hub.alerts import settings
from edgeloop_hub.storage.schema import signed
from hub_parts import Parts, parts


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    return parts(tmp_path)


def write(folder: Path, text: str) -> None:
    (folder / "data" / "key").write_text("a secret\n")
    (folder / "data" / "alerts.toml").write_text(text)


FAULTS = {
    "not TOML": ("[[channel", "not TOML"),
    "unknown setting": ("gather_second = 1", "did you mean gather_seconds?"),
    "unknown kind": ('[[channel]]\nname = "a"\nkind = "sms"', "channel[0].kind"),
    "unknown rule": ("[rules.silence]\noff = true", "did you mean silent?"),
    "rules as a list": ("rules = []", "expected tables such as [rules.silent]"),
    "wrong severity": ('[rules.silent]\nseverity = "fatal"', "rules.silent.severity"),
    "no address": ('[[channel]]\nname = "a"\nkind = "slack"', "give url, or url_file"),
    "no http": ('[[channel]]\nname = "a"\nkind = "slack"\nurl = "ftp://x"', "no http:// or https:// address"),
    "half an address": ('[[channel]]\nname = "a"\nkind = "slack"\nurl = "http://[::1"', "no http:// or https:// address"),
    "no topic": ('[[channel]]\nname = "a"\nkind = "ntfy"\nurl = "https://ntfy.sh/"', "ends with the topic"),
    "no secret": ('[[channel]]\nname = "a"\nkind = "webhook"\nurl = "http://x"\nsecret_file = "none"', "none: cannot be read"),
    "wrong hours": ('[[channel]]\nname = "a"\nkind = "slack"\nurl = "http://x"\nquiet = "22-7"', "quiet: expected times such as"),
    "no such zone": ('time_zone = "Mars/Base"', "there is no time zone 'Mars/Base'"),
    "two of a name": ('[[channel]]\nname = "a"\nkind = "slack"\nurl = "http://x"\n' * 2, "two channels of this name"),
    "mail without a sender": ('[[channel]]\nname = "a"\nkind = "email"\nserver = "x"\nto = ["a@b"]', "sender: missing"),
    "a password in the open": (
        '[[channel]]\nname = "a"\nkind = "email"\nserver = "x"\nsender = "a@b"\nto = ["a@b"]\ntls = "none"\nuser = "u"\npassword_file = "key"',
        "without encryption",
    ),
    "a line in an address": ('[[channel]]\nname = "a"\nkind = "email"\nserver = "x"\nsender = "a@b\\nBcc: c@d"\nto = ["a@b"]', "is no e-mail address"),
    "a negative time": ("gather_seconds = -1", "gather_seconds: expected 0 to"),
    "no number": ("clear_seconds = nan", "clear_seconds: expected 0 to"),
    "an endless share": ("silent_share = inf", "silent_share: expected a share"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_file_is_one_sentence_and_the_tick_goes_on(hub: Parts, tmp_path: Path, fault: str) -> None:
    text, part = FAULTS[fault]
    write(tmp_path, text)
    with pytest.raises(UsageError) as raised:
        settings.load(tmp_path / "data")
    assert part in str(raised.value) and "alerts.toml" in str(raised.value) and "\n" not in str(raised.value)
    hub.change(signed, signed.c.role == "timestamp", expires=time.time() + 5)
    outcome = hub.tick()
    assert "timestamp signed anew" in outcome.actions and part in outcome.problems[0]


def test_the_server_does_not_start_with_a_faulty_file_and_commands_say_so(hub: Parts, tmp_path: Path) -> None:
    write(tmp_path, "gather_second = 1")
    for words in (("serve", "--port", "1"), ("alerts", "check"), ("alerts", "test")):
        assert "did you mean gather_seconds?" in sentence(command("edgeloop-hub", "--data", tmp_path / "data", *words), 2)
    write(tmp_path, "")
    assert "no channel" in sentence(command("edgeloop-hub", "--data", tmp_path / "data", "alerts", "test"), 2)
    done = command("edgeloop-hub", "--data", tmp_path / "none", "alerts", "list")
    assert "there is no hub" in sentence(done, 2)


def test_the_file_of_the_docs_is_right(hub: Parts, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text()
    write(tmp_path, page.split("```toml\n")[1].split("```")[0])
    for name in ("webhook.secret", "mail.password"):
        (tmp_path / "data" / name).write_text("secret")
    (tmp_path / "data" / "slack.url").write_text("https://hooks.example/T/B")
    assert [one.kind for one in settings.load(tmp_path / "data").channel] == ["webhook", "email", "ntfy", "slack"]
    table = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(settings.RULES) <= set(table)
    for rule, severity in settings.RULES.items():
        assert f"| {severity}" in table[rule]
