"""OpenTelemetry traces, from a request through the queue to the analysis; off unless an endpoint is set.

While tracing is off, this program imports nothing of OpenTelemetry's API, SDK or exporter (Litestar imports the names
of attributes), and each place that could make a span costs the check of one variable.
No span contains data from users: only names, counts, ids and the types of errors.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlsplit

import structlog

from comment_monitor import __version__
from comment_monitor.core.errors import ConfigurationError
from comment_monitor.observability.correlation import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

PROTOCOL: Final = "http/protobuf"
# Seconds for sending the last spans at the end of the process.
FLUSH_TIMEOUT: Final = 5
# Minimum seconds between two log lines of OpenTelemetry.
QUIET: Final = 60.0
_NOTHING: Final = nullcontext()

Kind = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]

_tracer: "Tracer | None" = None
_provider: "TracerProvider | None" = None


def start(endpoint: str, service: str) -> None:
    """Switches tracing on if there is an endpoint. Call it after a fork, as a child has no threads of its parent.

    Args:
        endpoint: OTEL_EXPORTER_OTLP_ENDPOINT; empty: no traces. OpenTelemetry itself reads its other OTEL_ variables
            (headers, certificates, sampling, resource attributes), with the meaning in its specification.
        service: `service.name`, if neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES sets it.

    Raises:
        ConfigurationError: the endpoint can't be parsed, the protocol is not supported, or a variable of OpenTelemetry
            is out of its bounds.
    """
    global _tracer, _provider  # noqa: PLW0603 - one per process is the point
    if not endpoint or _tracer or _is_off():
        return
    _check(endpoint)
    try:
        _provider = _make_provider(service)
    except ValueError as error:
        raise ConfigurationError(f"OpenTelemetry rejects an OTEL_ variable: {error}") from None
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Throttle())
    _tracer = _provider.get_tracer("comment_monitor")


def check(endpoint: str) -> None:
    """Raises the errors of `start`, for a process that makes no traces and only forks processes that do."""
    start(endpoint, "check")
    stop()


def _is_off() -> bool:
    """Returns whether OpenTelemetry's own variables switch tracing off."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"


def _check(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        readable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        readable = False
    if not readable:
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_ENDPOINT=<hidden>: must be like http://collector:4318 "
            "(a / in a password is written %2F)"
        )
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol and protocol != PROTOCOL:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: must be {PROTOCOL} (collectors accept it on port 4318)"
        )


def _make_provider(service: str) -> "TracerProvider":
    # Imported here, so that processes without traces do not pay for it.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service}))
    resource = Resource({"service.namespace": "comment-monitor", "service.version": __version__}).merge(resource)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def stop() -> None:
    """Switches tracing off and sends the last spans, in at most five seconds."""
    global _tracer, _provider
    provider, _tracer, _provider = _provider, None, None
    if provider:
        # The library waits as long as a collector takes, whatever the timeout. The thread ends with the process.
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        last.join(FLUSH_TIMEOUT)


def on() -> bool:
    """Returns whether tracing is on."""
    return _tracer is not None


def request_context() -> RequestContext | None:
    """Returns the current request, for its later steps in other tasks and processes; None outside a request."""
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    if request_id is None:
        return None
    return RequestContext(request_id, _traceparent() if _tracer else "")


def span(name: str, kind: Kind = "INTERNAL", *, parent: str = "", **attributes: Any) -> AbstractContextManager[Any]:
    """Returns a span around a block: the child of the traceparent `parent` if there is one, else of the current span.

    In the names of `attributes`, a double underscore becomes a dot.
    """
    if not _tracer:
        return _NOTHING
    return _Block(_tracer, name, kind, parent, _dotted(attributes))


def query(name: str) -> AbstractContextManager[Any]:
    """Returns a span around a statement, if a span is current and sampled."""
    if not _tracer:
        return _NOTHING
    from opentelemetry import trace  # noqa: PLC0415

    if not trace.get_current_span().is_recording():
        return _NOTHING
    return span(name, "CLIENT", db__system__name="postgresql", db__operation__name=name)


class _Throttle(logging.Filter):
    """Passes one line of OpenTelemetry a minute: an unavailable collector is worth no more."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if not record.name.startswith("opentelemetry"):
            return True
        if now < self._quiet_until:
            return False
        self._quiet_until = now + QUIET
        return True


class Several:
    """One piece of work for several requests: a span in the trace of each.

    `contexts` are those requests. `inside` maps each to the context from which its trace continues, with its span here
    as the parent. A single span is also the current span.
    """

    def __init__(self, name: str, kind: Kind, contexts: Sequence[RequestContext], **attributes: Any):
        self.inside: dict[RequestContext, RequestContext] = {}
        self._spans: list[Span] = []
        self._current: AbstractContextManager[Any] = _NOTHING
        if not _tracer:
            return
        from opentelemetry import trace  # noqa: PLC0415

        for context in contexts:
            if context.trace:
                own = {**_dotted(attributes), "request.id": context.request_id}
                begun = _begin(_tracer, name, kind, context.trace, own)
                self._spans.append(begun)
                self.inside[context] = RequestContext(context.request_id, _traceparent(begun))
        if len(self._spans) == 1:
            self._current = trace.use_span(
                self._spans[0], end_on_exit=False, record_exception=False, set_status_on_exception=False
            )

    def __enter__(self) -> Self:
        """Makes a single span the current one; the spans began when this object was created."""
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the spans."""
        self._current.__exit__(kind, error, trace)
        for begun in self._spans:
            if kind:
                failed(begun, kind.__name__)
            begun.end()


class _Block:
    """One span, current within its block; it records the type of an error that leaves the block."""

    def __init__(self, tracer: "Tracer", name: str, kind: Kind, parent: str, attributes: dict[str, Any]):
        from opentelemetry import trace  # noqa: PLC0415

        self._span = _begin(tracer, name, kind, parent, attributes)
        self._current = trace.use_span(
            self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )

    def __enter__(self) -> "Span":
        self._current.__enter__()
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._current.__exit__(kind, error, trace)
        if kind:
            failed(self._span, kind.__name__)
        self._span.end()


def _begin(tracer: "Tracer", name: str, kind: Kind, parent: str, attributes: dict[str, Any]) -> "Span":
    from opentelemetry.trace import SpanKind  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    return tracer.start_span(name, context, kind=SpanKind[kind], attributes=attributes)


def trace_id(span: "Span") -> str:
    """Returns the id of a span's trace, in the form that collectors show."""
    return f"{span.get_span_context().trace_id:032x}"


def failed(span: "Span", kind: str) -> None:
    """Marks a span as failed, with the type of the error and without its message."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _traceparent(span: "Span | None" = None) -> str:
    from opentelemetry import trace  # noqa: PLC0415

    context = (span or trace.get_current_span()).get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _dotted(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
