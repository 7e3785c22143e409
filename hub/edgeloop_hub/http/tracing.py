"""Traces of requests and of their database statements for an OpenTelemetry collector; the extra `tracing` brings the libraries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Engine, event

from edgeloop_contract.errors import UsageError
from edgeloop_hub.settings_file import is_address

__all__ = ["Tracing", "check", "tracing"]

PATH = "/v1/traces"
MISSING = "--traces: OpenTelemetry is not installed here; pip install 'edgeloop[tracing]'"
NOT_TRACED = ["^/healthz$", "^/metrics$", r"\.(css|js)$", "^/live$"]  # what is asked all the time, and a stream that stays open
SEND_SECONDS = 5  # for one batch to arrive
QUEUE, BATCH = 2048, 256  # spans; what comes while the queue is full is dropped
MAX_TEXT = 2000  # characters of a statement
LOG = logging.getLogger("edgeloop_hub")


def check(endpoint: str) -> None:
    """Raises UsageError where traces cannot be sent there."""
    if not is_address(endpoint):
        raise UsageError(f"--traces {endpoint}: give the collector's address for OTLP by HTTP, such as http://localhost:4318")
    if "@" in urlsplit(endpoint).netloc:
        raise UsageError("--traces: the address has a name or password in it, which the log would show; leave them out")
    if endpoint.rstrip("/").endswith(PATH):
        raise UsageError(f"--traces {endpoint}: leave {PATH} out; it is added")
    try:
        import litestar.plugins.opentelemetry  # noqa: F401
        import opentelemetry.exporter.otlp.proto.http  # noqa: F401
    except ImportError as error:
        raise UsageError(MISSING) from error


@dataclass(frozen=True)
class Tracing:
    """What an application needs so that its requests are traced: plugins, and what it does when it stops."""

    plugins: list[Any]
    stop: list[Callable[[], None]]


def tracing(endpoint: str, engine: Engine) -> Tracing:
    """Without an endpoint nothing is traced. Raises UsageError."""
    if not endpoint:
        return Tracing([], [])
    check(endpoint)
    from litestar.plugins.opentelemetry import OpenTelemetryConfig, OpenTelemetryPlugin
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    provider = TracerProvider(resource=Resource.create({"service.name": "edgeloop-hub"}))
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}{PATH}", timeout=SEND_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(_told(exporter, endpoint), max_queue_size=QUEUE, max_export_batch_size=BATCH))
    _trace_statements(engine, provider.get_tracer("edgeloop_hub.database"))
    plugin = OpenTelemetryPlugin(OpenTelemetryConfig(tracer_provider=provider, exclude=NOT_TRACED))
    return Tracing([plugin], [provider.shutdown])


def _trace_statements(engine: Engine, tracer: Any) -> None:
    """A span for each statement, in the request's; its text has no values. OpenTelemetry's own package knows no SQLAlchemy 2.1."""
    from opentelemetry.trace import SpanKind, StatusCode

    @event.listens_for(engine, "before_cursor_execute")
    def begun(connection: Any, cursor: Any, statement: str, given: Any, context: Any, many: bool) -> None:
        about = {"db.system.name": engine.dialect.name, "db.query.text": statement[:MAX_TEXT]}
        context._span = tracer.start_span(statement.split(None, 1)[0].upper(), kind=SpanKind.CLIENT, attributes=about)

    @event.listens_for(engine, "after_cursor_execute")
    def done(connection: Any, cursor: Any, statement: str, given: Any, context: Any, many: bool) -> None:
        context._span.end()

    @event.listens_for(engine, "handle_error")
    def failed(context: Any) -> None:
        span = getattr(context.execution_context, "_span", None)
        if span is not None:
            span.set_status(StatusCode.ERROR, type(context.original_exception).__name__)
            span.end()


def _told(exporter: Any, endpoint: str) -> Any:
    """The exporter, which says when a collector is away: once, and again after it was there. Its own library says it each time."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Told(SpanExporter):
        away = False

        def export(self, spans: Any) -> SpanExportResult:
            result: SpanExportResult = exporter.export(spans)
            if result is not SpanExportResult.SUCCESS and not self.away:
                LOG.warning("traces cannot be sent to %s; requests go on, and these traces are lost", endpoint)
            self.away = result is not SpanExportResult.SUCCESS
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Told()
