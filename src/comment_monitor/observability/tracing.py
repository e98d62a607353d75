"""OpenTelemetry traces, from a request through the queue to the analysis; off unless they have somewhere to go.

While off nothing of OpenTelemetry's API, SDK or exporter is imported (Litestar takes names of attributes),
and each place that could make a span costs one look at a variable.
No span holds what a user sent: names, counts and ids only, of errors their type.
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
# Seconds that the last spans get on their way out.
FLUSH_TIMEOUT: Final = 5
# Seconds between two lines of OpenTelemetry's.
QUIET: Final = 60.0
_NOTHING: Final = nullcontext()

Kind = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]

_tracer: "Tracer | None" = None
_provider: "TracerProvider | None" = None


def start(endpoint: str, service: str) -> None:
    """Makes traces from now on, where there is an endpoint. Not before a fork: its thread would stay behind.

    Args:
        endpoint: OTEL_EXPORTER_OTLP_ENDPOINT; empty: no traces. What else OpenTelemetry reads from OTEL_ variables
            (headers, certificates, sampling, resource attributes) holds as its specification says.
        service: `service.name`, where neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES has one.

    Raises:
        ConfigurationError: the endpoint can't be read, another protocol is asked for than is here, or a variable of
            OpenTelemetry's is out of its bounds.
    """
    global _tracer, _provider  # noqa: PLW0603 - one for the process is the point
    if not endpoint or _tracer or _is_off():
        return
    _check(endpoint)
    try:
        _provider = _make(service)
    except ValueError as error:
        raise ConfigurationError(f"An OTEL_ variable is not as OpenTelemetry wants it: {error}") from None
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Seldom())
    _tracer = _provider.get_tracer("comment_monitor")


def check(endpoint: str) -> None:
    """Raises what `start` would raise: for a process that only forks those which make traces."""
    start(endpoint, "check")
    stop()


def _is_off() -> bool:
    """As OpenTelemetry's own variables say."""
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
            "OTEL_EXPORTER_OTLP_ENDPOINT=<hidden>: must be such as http://collector:4318 "
            "(a / in a password is written %2F)"
        )
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol and protocol != PROTOCOL:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: must be {PROTOCOL} (a collector has it on port 4318)"
        )


def _make(service: str) -> "TracerProvider":
    # Here, because only those who want traces are to pay for the import.
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
    """Sends the last spans, in five seconds at most."""
    global _tracer, _provider
    provider, _tracer, _provider = _provider, None, None
    if provider:
        # The library waits for as long as a collector takes, whatever it is told. The thread ends with the process.
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        last.join(FLUSH_TIMEOUT)


def on() -> bool:
    """Whether traces are made."""
    return _tracer is not None


def request_context() -> RequestContext | None:
    """The request that is being worked on, for what is going to happen elsewhere."""
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    if request_id is None:
        return None
    return RequestContext(request_id, _traceparent() if _tracer else "")


def span(name: str, kind: Kind = "INTERNAL", *, parent: str = "", **attributes: Any) -> AbstractContextManager[Any]:
    """A span around a block; as the child of a traceparent, else of what the block is in.

    `attributes`: a double underscore in a name stands for a dot.
    """
    if not _tracer:
        return _NOTHING
    return _Block(_tracer, name, kind, parent, _dotted(attributes))


def query(name: str) -> AbstractContextManager[Any]:
    """A span around a statement, where it is part of a trace."""
    if not _tracer:
        return _NOTHING
    from opentelemetry import trace  # noqa: PLC0415

    if not trace.get_current_span().is_recording():
        return _NOTHING
    return span(name, "CLIENT", db__system__name="postgresql", db__operation__name=name)


class _Seldom(logging.Filter):
    """Lets one line of OpenTelemetry's a minute through: a collector that is away is worth no more."""

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
    """A span in the trace of each of several requests: one piece of work that is done for all of them.

    `origins` are theirs, `inside` are the same with these spans as what the trace goes on from. Of one alone it is the
    current span too.
    """

    def __init__(self, name: str, kind: Kind, origins: Sequence[RequestContext], **attributes: Any):
        self.inside: dict[RequestContext, RequestContext] = {}
        self._spans: list[Span] = []
        self._current: AbstractContextManager[Any] = _NOTHING
        if not _tracer:
            return
        from opentelemetry import trace  # noqa: PLC0415

        for one in origins:
            if one.trace:
                made = _made(_tracer, name, kind, one.trace, {**_dotted(attributes), "request.id": one.request_id})
                self._spans.append(made)
                self.inside[one] = RequestContext(one.request_id, _traceparent(made))
        if len(self._spans) == 1:
            self._current = trace.use_span(
                self._spans[0], end_on_exit=False, record_exception=False, set_status_on_exception=False
            )

    def __enter__(self) -> Self:
        """They have begun."""
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """They end."""
        self._current.__exit__(kind, error, trace)
        for one in self._spans:
            if kind:
                failed(one, kind.__name__)
            one.end()


class _Block:
    """One span, current within its block; an error is noted by its type."""

    def __init__(self, tracer: "Tracer", name: str, kind: Kind, parent: str, attributes: dict[str, Any]):
        from opentelemetry import trace  # noqa: PLC0415

        self._span = _made(tracer, name, kind, parent, attributes)
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


def _made(tracer: "Tracer", name: str, kind: Kind, parent: str, attributes: dict[str, Any]) -> "Span":
    from opentelemetry.trace import SpanKind  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    return tracer.start_span(name, context, kind=SpanKind[kind], attributes=attributes)


def trace_id(of: "Span") -> str:
    """The id of a span's trace, as collectors show it."""
    return f"{of.get_span_context().trace_id:032x}"


def failed(one: "Span", kind: str) -> None:
    """Marks a span as failed, with the type of its error and none of its words."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    one.set_attribute("error.type", kind)
    one.set_status(Status(StatusCode.ERROR))


def _traceparent(of: "Span | None" = None) -> str:
    from opentelemetry import trace  # noqa: PLC0415

    context = (of or trace.get_current_span()).get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _dotted(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
