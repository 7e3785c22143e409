"""`edgeloop-agent`: answer recordings, or serve for years; bench and inspect bundles; install as a service."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeloop_agent.cli_values import Version, positive
from edgeloop_contract.errors import DataError, DeviceError, EdgeloopError
from edgeloop_contract.files import remedy_of

if TYPE_CHECKING:
    from edgeloop_agent.engine import Engine
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.bench_report import VariantChoice

EXIT_CODES = """exit codes: 0 done · 2 wrong usage or config · 3 no sample could be used · 5 the bundle is wrong ·
6 this device cannot run it · 7 a folder cannot be written · 8 the hub is away or refuses · 130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths that are not UTF-8 are printed too
    try:
        code: int = options.command(options)
        sys.stdout.flush()
        return code
    except EdgeloopError as error:
        print(f"edgeloop-agent: {error}", file=sys.stderr)
        return error.exit_code
    except UnicodeEncodeError as error:
        name = ascii(error.object[error.start : error.end])
        print(f"edgeloop-agent: {name} in a name: this locale has no such letters; set LC_ALL=C.UTF-8", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("edgeloop-agent: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has ended.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"edgeloop-agent: {error.filename or 'output'}: {error.strerror}; {remedy_of(error)}", file=sys.stderr)
        return 7


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("edgeloop-agent", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="answer recordings, one JSON line a sample", epilog=EXIT_CODES)
    run.add_argument("bundle", type=Path)
    run.add_argument("--source", required=True, help="a folder of recordings, a file, or - for JSON lines on stdin")
    run.add_argument("--variant", help="use this variant instead of the fastest one")
    run.add_argument("--threads", type=positive, help="threads for the model (default: as measured, else 1)")
    run.add_argument("--draw", type=Path, metavar="FOLDER", help="write each picture with its boxes or masks there, as PNG")
    run.set_defaults(command=_run)
    bench = commands.add_parser("bench", help="measure every variant here and remember the fastest", epilog=EXIT_CODES)
    bench.add_argument("bundle", type=Path)
    bench.add_argument("--seconds", type=float, default=0.5, help="time per variant and thread count (default 0.5)")
    says = "then run the fastest variant without a pause: rate, memory, energy, heat"
    bench.add_argument("--sustain", type=float, default=0.0, metavar="SECONDS", help=says)
    bench.add_argument(
        "--stop-celsius", type=float, default=float("inf"), help="end the sustained run early above this temperature"
    )
    bench.add_argument("--kernels", action="store_true", help="time each kernel of the fastest ONNX variant too")
    bench.add_argument("--json", action="store_true", help="print one JSON object")
    bench.set_defaults(command=_bench)
    inspect = commands.add_parser("inspect", help="verify a bundle and print what is in it", epilog=EXIT_CODES)
    inspect.add_argument("bundle", type=Path)
    inspect.add_argument("--json", action="store_true", help="print the manifest as JSON")
    inspect.set_defaults(command=_inspect)
    serve = commands.add_parser(
        "serve", help="answer a source and the local API until stopped, as a config says", epilog=EXIT_CODES
    )
    serve.set_defaults(command=_serve)
    check = commands.add_parser("check", help="check a config and its bundles, and list what this device has", epilog=EXIT_CODES)
    check.set_defaults(command=_check)
    install = commands.add_parser("install", help="install as a systemd service with a user of its own", epilog=EXIT_CODES)
    install.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    install.add_argument("--root", type=Path, default=Path("/"), help="write into this file system instead (an image, say)")
    install.set_defaults(command=_install)
    enrol = commands.add_parser("enrol", help="enrol this device at its hub, with a one-time token", epilog=EXIT_CODES)
    enrol.add_argument("--name", help="the device's name (default: its host name)")
    enrol.add_argument("--token", help="from edgeloop-hub token enrol (default: read from standard input)")
    enrol.add_argument("--root", type=Path, help="trust this root metadata file instead: updates from a folder, without a hub")
    enrol.set_defaults(command=_enrol)
    update = commands.add_parser("update", help="look for an update now, and stage it for the running service", epilog=EXIT_CODES)
    update.add_argument("--folder", type=Path, help="from this folder (a USB stick) instead of where the config says")
    update.set_defaults(command=_update)
    explain = commands.add_parser("explain", help="print the table that a running agent planned its split from", epilog=EXIT_CODES)
    explain.add_argument("--port", type=positive, help="port of its API, where the config says 0")
    explain.set_defaults(command=_explain)
    for command in (serve, check, install, enrol, update, explain):
        command.add_argument("config", type=Path, help="a TOML file (docs/agent.md)")
    for command in (run, bench):
        command.add_argument("--state", type=Path, help="folder for measurements")
    return parser


def _run(options: argparse.Namespace) -> int:
    # numpy takes most of the start-up time, and the supervisor needs none of it: imports are where they are used.
    from edgeloop_agent import device_state
    from edgeloop_agent.answering import Answering
    from edgeloop_agent.drawing import Pictures
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.runtimes.onnx import installed_accelerators
    from edgeloop_agent.sources.files import open_source
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.bench_report import VariantChoice
    from edgeloop_contract.preprocessing import takes_texts

    state = options.state or device_state.default_folder()
    with Bundle.open(options.bundle) as bundle:
        if options.variant:
            choice = VariantChoice(bundle.manifest.variant(options.variant).name, 1, "asked for")
        else:
            remembered = device_state.remembered_choice(state, bundle, installed_accelerators())
            choice = remembered or device_state.first_available(bundle.manifest.variants)
        if options.threads:
            choice = msgspec.structs.replace(choice, threads=options.threads)
        engine = _engine(bundle, state, [choice] if options.variant else device_state.in_order(bundle.manifest.variants, choice))
        choice = engine.choice
        print(f"{choice.variant} on {engine.runtime.description}, {choice.threads} threads ({choice.why})", file=sys.stderr)
        answering, answered, refused = Answering(bundle.manifest, lambda: engine, Counts()), 0, 0
        texts = len(bundle.manifest.inputs) == 1 and takes_texts(bundle.manifest.preprocessing)
        pictures = None if options.draw is None else Pictures(options.draw, bundle.manifest)
        for recording in open_source(options.source, sys.stdin, texts=texts):
            for line in answering.lines(recording):
                if pictures is not None:
                    pictures.add(recording.name, recording.values, line.boxes, line.masks)
                refused += line.refused is not None
                answered += line.refused is None
                sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
            sys.stdout.buffer.flush()
    print(f"{answered} samples answered, {refused} refused", file=sys.stderr)
    if not answered:
        raise DataError(f"{options.source}: no sample could be used ({refused} refused); the lines say why")
    return 0


def _engine(bundle: Bundle, state: Path, choices: list[VariantChoice]) -> Engine:
    """An engine of the first variant that runs here. Raises the first variant's DeviceError."""
    from edgeloop_agent.device_state import options_for
    from edgeloop_agent.engine import Engine

    failure: DeviceError | None = None
    for choice in choices:
        try:
            engine = Engine(bundle, choice, options_for(state, way=choice.provider))
            engine.try_once()
            return engine
        except DeviceError as error:
            failure = failure or error
            print(f"edgeloop-agent: {choice.variant} does not run here: {error}", file=sys.stderr)
    raise failure or DeviceError("there is no variant")


def _bench(options: argparse.Namespace) -> int:
    from edgeloop_agent import device_state
    from edgeloop_agent.bench.measure import measure_bundle
    from edgeloop_agent.bench.sustained import in_a_process, kernel_times, lines
    from edgeloop_agent.runtimes.onnx import installed_accelerators
    from edgeloop_agent.scratch import use_scratch
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.bench_report import BenchReport

    state, providers = options.state or device_state.default_folder(), installed_accelerators()
    use_scratch(state)
    with Bundle.open(options.bundle) as bundle:
        rows = measure_bundle(bundle, options.seconds, device_state.options_for(state, providers))
        choice = device_state.fastest(bundle.manifest.variants, rows)
        if choice is None:
            raise DeviceError(f"no variant runs here: {rows[0].refused}")
        path = device_state.remember_choice(state, bundle, choice, providers)
        timed = kernel_times(bundle, rows) if options.kernels else None
    steady = in_a_process(options.bundle, choice, options.sustain, options.stop_celsius) if options.sustain > 0 else None
    if options.json:
        print(msgspec.json.encode(BenchReport(rows, choice, str(path), steady, timed)).decode())
        return 0
    width = max(16, *(len(row.title) + 2 for row in rows))
    print(f"{'variant':{width}}{'runtime':28}{'p50 µs':>10}{'p95 µs':>10}{'threads':>9}")
    for row in rows:
        if row.cost is None:
            print(f"{row.title:{width}}{row.refused}")
        else:
            cost = row.cost
            print(f"{row.title:{width}}{row.runtime:28}{cost.latency_us_p50:10.1f}{cost.latency_us_p95:10.1f}{cost.threads:9}")
    print(f"fastest: {choice.title}, {choice.threads} threads; remembered in {path}")
    for line in lines(steady, timed):
        print(line)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from edgeloop_agent import launcher, state_lock

    if (state := launcher.state_of(options.config)) is not None:
        state_lock.hold(state)  # first: the launcher counts starts
    launcher.launch(options.config)
    from edgeloop_agent.supervisor import Supervisor

    try:
        return Supervisor(options.config).run()
    except EdgeloopError:
        if launcher.is_on_trial():
            launcher.relaunch(options.config)
        launcher.started()  # a config with problems is no fault of the agent
        raise


def _check(options: argparse.Namespace) -> int:
    from edgeloop_agent.checking import report_lines

    for line in report_lines(options.config):
        print(line)
    return 0


def _install(options: argparse.Namespace) -> int:
    from edgeloop_agent.config import load
    from edgeloop_agent.install import carry_out, plan

    actions = plan(load(options.config), options.config, options.root)
    for action in actions:
        print(action.description)
        if options.dry_run and action.path is not None:
            print("".join(f"    {line}\n" for line in action.content.splitlines()), end="")
        elif options.dry_run:
            print(f"    {' '.join(action.command)}")
    if not options.dry_run:
        carry_out(actions)
    return 0


def _enrol(options: argparse.Namespace) -> int:
    from edgeloop_agent.config import load
    from edgeloop_agent.updates.enrolment import enrol, trust
    from edgeloop_agent.updates.file_owner import state_owner

    where = state_owner(load(options.config), options.config, f"edgeloop-agent enrol {options.config}")
    if options.root is not None:
        print(trust(where, options.root))
        return 0
    token = options.token or sys.stdin.readline().strip()
    print(enrol(where, options.name, token))
    return 0


def _update(options: argparse.Namespace) -> int:
    from edgeloop_agent.config import load
    from edgeloop_agent.updates.enrolment import update_now
    from edgeloop_agent.updates.file_owner import state_owner

    where = state_owner(load(options.config), options.config, f"edgeloop-agent update {options.config}")
    where.become()
    config = where.config
    if options.folder is not None:
        updates = msgspec.structs.replace(config.updates, hub="", folder=str(options.folder.resolve()))
        config = msgspec.structs.replace(config, updates=updates)
    print(update_now(config, options.config))
    return 0


def _explain(options: argparse.Namespace) -> int:
    from edgeloop_agent.config import load
    from edgeloop_agent.offload.plan_table import lines

    for line in lines(load(options.config), options.port):
        print(line)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from edgeloop_agent.inspection import described
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.manifest_json import encode

    with Bundle.open(options.bundle) as bundle:
        if options.json:
            print(encode(bundle.manifest).decode())
        else:
            print("\n".join(described(bundle)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
