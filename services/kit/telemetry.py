"""Logs, traces and metrics: one structured line, one trace across RPCs and events, RED metrics."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NoReturn

import orjson
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from prometheus_client import REGISTRY, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kit.settings import Settings

tracer = trace.get_tracer("motcua")

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
RPC_SERVED = Histogram("rpc_server_seconds", "RPCs served", ("method", "code"), buckets=SECONDS)
RPC_CALLED = Histogram("rpc_client_seconds", "RPCs called", ("method", "code"), buckets=SECONDS)
EVENTS_HANDLED = Histogram(
    "event_handled_seconds", "Events handled", ("consumer", "type", "outcome"), buckets=SECONDS
)
EVENTS_PUBLISHED = Counter("event_published", "Events published", ("type", "outcome"))
EVENTS_FOREIGN = Counter("event_foreign", "Events that are not of the stream, or the subject, they came from")


class Measured(Collector):
    """A gauge of what lies elsewhere. A value that is not measured again within `fresh` seconds is no longer
    shown: better none than one that was true before NATS or the database went away."""

    def __init__(
        self,
        name: str,
        help: str,
        labels: tuple[str, ...] = (),
        *,
        fresh: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._help, self._labels, self._fresh, self._clock = help, labels, fresh, clock
        self._values: dict[tuple[str, ...], tuple[float, float]] = {}

    def set(self, value: float, *labels: str) -> None:
        """What was measured just now."""
        self._values[labels] = (value, self._clock())

    def describe(self) -> Iterable[Metric]:
        """The metric without values, for the registry."""
        return [GaugeMetricFamily(self.name, self._help, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """The metric with the values that are fresh; nothing when none is."""
        oldest = self._clock() - self._fresh
        family = GaugeMetricFamily(self.name, self._help, labels=self._labels)
        for labels, (value, at) in list(self._values.items()):
            if at >= oldest:
                family.add_metric(labels, value)
        return [family] if family.samples else []


# Every replica measures the same: `max by (consumer)`, not `sum`.
EVENTS_PENDING = Measured("event_consumer_pending", "Events not delivered yet", ("stream", "consumer"))
EVENTS_UNACKNOWLEDGED = Measured(
    "event_consumer_unacknowledged", "Events delivered and not settled", ("stream", "consumer")
)
EVENTS_REDELIVERED = Measured(
    "event_consumer_redelivered", "Unsettled events delivered more than once", ("stream", "consumer")
)
OUTBOX_PENDING = Measured("event_outbox_pending", "Documents with events to publish", ("collection",))
EVENTS_REFUSED = Measured(
    "event_outbox_refused", "Documents with an event that NATS refuses for ever", ("collection",)
)
EVENTS_DEAD = Measured("events_dead", "Events that were set aside")
for _gauge in (
    EVENTS_PENDING,
    EVENTS_UNACKNOWLEDGED,
    EVENTS_REDELIVERED,
    OUTBOX_PENDING,
    EVENTS_REFUSED,
    EVENTS_DEAD,
):
    REGISTRY.register(_gauge)


def setup(settings: Settings, name: str) -> None:
    """Logging and tracing of this process; spans are shipped only when `otlp_endpoint` is set.

    A tracer provider that is already there (a test's) stays.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine(name) if settings.log_format == "json" else ConsoleLine(name))
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    logging.getLogger("pymongo").setLevel(logging.INFO)  # its DEBUG lines carry whole documents
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    # Without a collector spans are not recorded, but they still give the log its trace ids.
    sampler = ParentBased(TraceIdRatioBased(settings.trace_ratio)) if settings.otlp_endpoint else ALWAYS_OFF
    provider = TracerProvider(resource=Resource.create({"service.name": name}), sampler=sampler)
    if settings.otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        insecure = not settings.otlp_endpoint.startswith("https://")
        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=insecure)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def end(code: int) -> NoReturn:
    """Ends the process once spans and logs are out, without the interpreter's own end: a thread of obstore
    that comes back to it then aborts the process, and what ended well would count as a crash."""
    if isinstance(provider := trace.get_tracer_provider(), TracerProvider):
        provider.shutdown()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve_metrics(listen: str) -> int:
    """Prometheus metrics over HTTP at host:port, from a thread of its own. Returns the port. Raises OSError
    when it cannot."""
    host, _, port = listen.rpartition(":")
    try:
        server, _thread = start_http_server(int(port), addr=host or "127.0.0.1")
    except (OSError, OverflowError, ValueError) as error:
        raise OSError(f"cannot serve metrics on {listen}: {error}") from error
    return server.server_port


def traceparent(span: trace.Span | None = None) -> str:
    """The span (the current one when none is given) as a W3C `traceparent`; empty when there is none."""
    context = (span or trace.get_current_span()).get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_from(text: str | None) -> Context | None:
    """The remote parent that a `traceparent` names; None when it is absent or malformed."""
    parts = (text or "").split("-")
    if len(parts) != 4 or len(parts[1]) != 32 or len(parts[2]) != 16:
        return None
    try:
        remote = trace.SpanContext(
            int(parts[1], 16),
            int(parts[2], 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(int(parts[3], 16)),
        )
    except ValueError:
        return None
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context()) if remote.is_valid else None


def _trace_id() -> str:
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


class JsonLine(logging.Formatter):
    """One JSON object a line: time, level, service, logger, message, trace, error."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON text."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace_id := _trace_id():
            line["trace"] = trace_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class ConsoleLine(logging.Formatter):
    """One short line for people: time, level, service, trace, message."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, with the traceback below when there is one."""
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        line = f"{at} {record.levelname:<7} {self._service:<9} {_trace_id()[:8]:<8} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
