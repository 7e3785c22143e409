"""The same hub on a real PostgreSQL and an S3 server, several workers, a backup that is restored, and TLS."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asking import ask, enrolled
from commands import BIN, command
from hubs import Hub, free_port, running_hub, say_hello, version
from programs import needs, program
from serving import eventually, write_config


def postgres_folder() -> Path | None:
    found = program("postgresql")
    return found.parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """A server of its own, on a port of its own; as another user where we are root, as it insists on that."""
    binaries, port = postgres_folder(), free_port()
    assert binaries is not None
    as_user: tuple[str, ...] = ()
    folder = Path(tempfile.mkdtemp(prefix="edgeloop-postgres-"))  # pytest's folders let no other user through
    if os.geteuid() == 0:
        who = pwd.getpwnam("nobody")
        os.chown(folder, who.pw_uid, who.pw_gid)
        as_user = ("setpriv", "--reuid", "nobody", "--regid", str(who.pw_gid), "--clear-groups")
    data = folder / "db"
    made = [*as_user, str(binaries / "initdb"), "-D", str(data), "-U", "hub", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(made, check=True, capture_output=True)
    words = [*as_user, str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        psql = [str(binaries / "psql"), "-h", "127.0.0.1", "-p", str(port), "-U", "hub", "postgres", "-c", "CREATE DATABASE hub"]
        eventually(lambda: subprocess.run(psql, capture_output=True, check=False).returncode == 0)
        yield f"postgresql://hub@127.0.0.1:{port}/hub"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def away(url: str) -> Iterator[None]:
    """PostgreSQL ends the connections to this hub's database, and takes no other."""

    def psql(statement: str) -> None:
        binaries = postgres_folder()
        assert binaries is not None
        subprocess.run([binaries / "psql", url.removesuffix("hub") + "postgres", "-c", statement], check=True, capture_output=True)

    psql("ALTER DATABASE hub ALLOW_CONNECTIONS false")
    psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'hub'")
    try:
        yield
    finally:
        psql("ALTER DATABASE hub ALLOW_CONNECTIONS true")


@contextmanager
def s3() -> Iterator[str]:
    """moto's server, with one bucket."""
    port = free_port()
    server = subprocess.Popen([BIN / "moto_server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    old = {
        k: os.environ.get(k) for k in ("AWS_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ALLOW_HTTP")
    }
    try:
        address = f"http://127.0.0.1:{port}"
        eventually(lambda: urllib.request.urlopen(urllib.request.Request(f"{address}/hub", method="PUT"), timeout=5).status == 200)
        values = {
            "AWS_ENDPOINT": address,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "1",
        }
        os.environ.update(values)
        yield "s3://hub/fleet"
    finally:
        for name, value in old.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        server.terminate()
        server.wait(20)


def a_device_updates(hub: Hub, folder: Path, number: int) -> None:
    """Published, asked for by a real agent's updater, staged."""
    folder.mkdir(parents=True, exist_ok=True)
    config = write_config(folder, f'[updates]\nhub = "{hub.address}"\n')
    hub.enrol(config, f"pi-{number}")
    assert "no target" in _update(config)  # and makes itself known
    target = hub.publish(version(folder, number))
    say_hello(hub, folder)
    hub.edgeloop("rollout", "start", target, "--steps", "100%", "--soak-minutes", "0")
    assert "is staged" in _update(config)
    number_ = hub.edgeloop("rollout", "status").split()[0]
    hub.edgeloop("rollout", "abort", number_)


def _update(config: Path) -> str:
    done = command("edgeloop-agent", "update", config)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@needs("postgresql")
def test_postgresql_and_s3_with_two_workers_and_a_backup_into_sqlite(tmp_path: Path) -> None:
    with postgres() as database, s3() as blobs:
        words = ("--database", database, "--blobs", blobs)
        with running_hub(tmp_path / "hub", *words, serve=("--workers", "2")) as hub:
            a_device_updates(hub, tmp_path / "device", 2)
            hub.run("tick")
            said = hub.run("backup", tmp_path / "hub.tar.gz")
            assert "1 bundles" in said and (tmp_path / "hub.tar.gz").stat().st_mode & 0o077 == 0
        assert (
            not list((tmp_path / "hub" / "data" / "blobs").glob("**/*")) if (tmp_path / "hub" / "data" / "blobs").exists() else True
        )
    elsewhere = ("--data", str(tmp_path / "new" / "data"))
    assert "1 bundles are back" in command("edgeloop-hub", *elsewhere, "restore", tmp_path / "hub.tar.gz").stdout
    again = command("edgeloop-hub", *elsewhere, "restore", tmp_path / "hub.tar.gz")
    assert again.returncode == 2 and "there is a hub already" in again.stderr
    shutil.copytree(tmp_path / "hub" / "keys", tmp_path / "new" / "keys")
    with running_hub(tmp_path / "new", keys=False) as hub:
        assert "aborted" in hub.edgeloop("rollout", "status")
        # The keys and the trust that devices have go on.
        config = write_config(tmp_path / "device", f'[updates]\nhub = "{hub.address}"\n')
        credential = tmp_path / "device" / "state" / "updates" / "credential.json"
        told = json.loads(credential.read_text())
        credential.write_text(json.dumps({**told, "hub": hub.address}))
        assert "a bundle is on trial" in _update(config) or "running already" in _update(config)
        a_device_updates(hub, tmp_path / "second", 3)


@pytest.mark.long
@needs("postgresql")
def test_every_page_and_the_audit_log_on_postgresql(tmp_path: Path) -> None:
    with postgres() as database, running_hub(tmp_path, "--database", database) as hub:
        hub.enrol(write_config(tmp_path, f'[updates]\nhub = "{hub.address}"\n'), "pi-1", "--label", "pilot")
        say_hello(hub, tmp_path)
        target = hub.publish(version(tmp_path, 2))
        hub.edgeloop("rollout", "start", target, "--steps", "label:pilot, 50%, 100%")
        hub.run("tick")
        ask = hub.signed_in("ada")
        for path in (
            "/",
            "/devices/pi-1",
            "/rollouts",
            "/rollouts/1",
            "/versions",
            "/drift",
            "/queue",
            "/alerts",
            "/events",
            "/people",
        ):
            assert "<main" in ask(path), path
        for who in ("late", "in", "failed"):
            assert "<main" in ask(f"/rollouts/1?who={who}")
        assert hub.run("audit", "verify")
        hub.run("audit", "export", tmp_path / "audit.jsonl")
        assert "published" in (tmp_path / "audit.jsonl").read_text()


def test_a_file_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no archive")
    done = command("edgeloop-hub", "--data", tmp_path / "data", "restore", tmp_path / "x")
    assert done.returncode == 2 and "not a backup" in done.stderr


@pytest.mark.long
def test_tls_and_a_certificate_of_ones_own(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"]
    subprocess.run([*made, "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    serve = ("--certificate", str(certificate), "--private-key", str(key))
    with running_hub(tmp_path / "hub", keys=False, serve=serve) as hub:
        hub.address = hub.address.replace("http://", "https://")
        assert "certificate" in hub.edgeloop("keys", "init", code=8).lower()
        hub.edgeloop("keys", "init", "--ca-file", certificate)
        config = write_config(tmp_path, f'[updates]\nhub = "{hub.address}"\nca_file = "{certificate}"\n')
        hub.enrol(config, "pi")
        assert "no target" in _update(config)


def test_a_database_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = command("edgeloop-hub", "--data", tmp_path, "--database", "postgresql://hub@127.0.0.1:9/hub", "token", "api", "x")
    assert done.returncode == 7 and "Traceback" not in done.stderr and "database:" in done.stderr


def test_migrations_make_the_tables_of_the_code(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from edgeloop_hub.storage.database import Database
    from edgeloop_hub.storage.schema import metadata

    database = Database(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.engine.dispose()


def test_a_database_of_a_later_release_is_one_sentence(tmp_path: Path) -> None:
    import sqlite3

    assert command("edgeloop-hub", "--data", tmp_path / "hub", "token", "api", "x").returncode == 0
    with sqlite3.connect(tmp_path / "hub" / "hub.sqlite") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    done = command("edgeloop-hub", "--data", tmp_path / "hub", "tick")
    assert done.returncode == 7 and "Traceback" not in done.stderr and "later release" in done.stderr


@pytest.mark.long
@needs("postgresql")
def test_while_postgresql_is_away_everything_says_when_to_come_again(tmp_path: Path) -> None:
    with postgres() as url, running_hub(tmp_path, "--database", url) as hub:
        device, person = enrolled(hub, "pi-1"), hub.signed_in("olga")
        assert "olga" in person("/")
        report = {"key": "key-00001", "at": 1.0, "heartbeat": {"model": "m"}}
        assert ask(hub, "POST", "/api/v1/report", device, report).status == 200
        with away(url):
            asked = [
                ("GET", "/healthz", ""),
                ("GET", "/api/v1/devices", hub.token),
                ("GET", "/metrics", hub.token),
                ("GET", "/api/v1/update", device),
            ]
            for method, path, secret in [*asked, ("POST", "/api/v1/report", device)]:
                answer = ask(hub, method, path, secret, {**report, "key": "key-00002"} if method == "POST" else None)
                assert (answer.status, int(answer.headers["Retry-After"])) == (503, 10), (path, answer.data)
            with pytest.raises(urllib.error.HTTPError) as refused:
                person("/")
            assert refused.value.code == 503 and refused.value.headers["Retry-After"] == "10"
            refused.value.close()
        eventually(lambda: ask(hub, "POST", "/api/v1/report", device, {**report, "key": "key-00002"}).status == 200)
        assert "olga" in person("/") and "Traceback" not in hub.log
