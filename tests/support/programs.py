"""Programs of Debian packages that some tests drive: which test needs which package, and what CI makes of a missing one.

A pytest plugin (conftest.py loads it). A test says `@needs("mosquitto")` and asks `program("mosquitto")` for the path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

# Debian package → names under which its program may be found, or patterns of its path.
PROGRAMS = {
    "dpkg": ("dpkg-deb",), "gcc": ("gcc",), "libc6-dev": ("/usr/include/stdio.h",), "iproute2": ("ip",),
    "chromium": ("chromium", "google-chrome"), "chromium-driver": ("chromedriver",),
    "postgresql": ("/usr/lib/postgresql/*/bin/initdb",), "strace": ("strace",), "mosquitto": ("mosquitto",),
    "nginx-light": ("nginx",), "caddy": ("caddy",), "nodejs": ("node",), "npm": ("npm",),
    "systemd": ("systemd-analyze",), "prometheus": ("promtool",), "python3-gi": ("/usr/lib/python3/dist-packages/gi/__init__.py",),
    "gir1.2-gst-rtsp-server-1.0": ("/usr/lib/*/girepository-1.0/GstRtspServer-1.0.typelib",), "gstreamer1.0-tools": ("gst-launch-1.0",),
    "gstreamer1.0-plugins-base": ("/usr/lib/*/gstreamer-1.0/libgstvideotestsrc.so",),
    "gstreamer1.0-plugins-good": ("/usr/lib/*/gstreamer-1.0/libgstjpeg.so",),
    "gstreamer1.0-plugins-ugly": ("/usr/lib/*/gstreamer-1.0/libgstx264.so",),
}  # fmt: skip
MISSING = "Debian packages are missing: apt-get install "
INSTALL_SECONDS = 600

_skipped: dict[str, str] = {}  # test → reason, of this session


def program(package: str) -> Path | None:
    """The path of the package's program, the newest version of it; None where it is not installed."""
    for place in PROGRAMS[package]:
        found = shutil.which(place, path=os.environ.get("PATH", "") + ":/usr/sbin")
        paths = sorted(Path("/").glob(place[1:])) if "/" in place else [Path(found)] if found else []
        if paths:
            return paths[-1]
    return None


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip the test where one of these Debian packages is missing, and say which."""
    missing = missing_of(packages)
    return pytest.mark.skipif(bool(missing), reason=MISSING + " ".join(missing))


def missing_of(packages: tuple[str, ...]) -> list[str]:
    return [package for package in packages if not program(package)]


def may_install() -> bool:
    """Whether this session installs what is missing: in CI, as root, with apt-get. A developer's machine is left alone."""
    return bool(os.environ.get("CI") and not os.geteuid() and shutil.which("apt-get"))


def apt(*words: str) -> subprocess.CompletedProcess[str]:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(["apt-get", *words], env=quiet, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Install what is missing, where this session may."""
    missing = missing_of(tuple(PROGRAMS))
    if os.environ.get("PYTEST_XDIST_WORKER") or not missing or not may_install():
        return
    for words in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *missing]):
        done = apt(*words)
        if done.returncode:
            warnings.warn(f"apt-get {words[0]}: {done.stderr.strip()[-300:]}; tests of {missing} are skipped", stacklevel=1)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the reason of a skip; under xdist the controller sees the reports of all workers."""
    if report.skipped and isinstance(report.longrepr, tuple) and MISSING in report.longrepr[2]:
        _skipped[report.nodeid] = report.longrepr[2].split(MISSING)[1]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The session fails where a test was skipped for want of a package that this session could have installed."""
    if not exitstatus and installable():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which test was skipped for want of which package."""
    for test, missing in _skipped.items():
        terminalreporter.write_line(f"SKIPPED {test}: {MISSING}{missing}")
    if packages := installable():
        terminalreporter.write_line(f"FAILED: CI could have installed {' '.join(packages)}", red=True)


def installable() -> list[str]:
    """The packages for want of which tests were skipped, and that apt-get could have installed."""
    packages = sorted({package for reason in _skipped.values() for package in reason.split()})
    return [package for package in packages if may_install() and not apt("install", "--simulate", "-q", package).returncode]
