"""What the real OpenTelemetry instrumentation reports for a missing scope."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from flask import Flask
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from basicauth_mw import Backend, InsufficientScope, Issued, Settings
from basicauth_mw.integrations.fastapi import install
from basicauth_mw.integrations.flask import BasicAuth
from tests.asgi.helpers import call, http_scope


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(spans))
    return made


def is_a_403(spans: InMemorySpanExporter) -> None:
    """One server span, with the status of the response, no error and no exception."""
    (span,) = (each for each in spans.get_finished_spans() if each.kind is SpanKind.SERVER)
    attributes = dict(span.attributes or {})
    assert attributes.get("http.status_code", attributes.get("http.response.status_code")) == 403
    assert span.status.status_code is not StatusCode.ERROR
    assert [event.name for event in span.events] == []


def test_fastapi(
    backend: Backend, issued: Issued, spans: InMemorySpanExporter, provider: TracerProvider
) -> None:
    app = FastAPI()

    @app.get("/scope")
    async def scope() -> None:
        raise InsufficientScope

    install(app, backend, settings=Settings())
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)

    assert call(app, http_scope(issued.authorization, path="/scope")).status == 403
    is_a_403(spans)


def test_flask(
    backend: Backend, issued: Issued, spans: InMemorySpanExporter, provider: TracerProvider
) -> None:
    """Instrumented before ``init_app``, as docs/errors.md says."""
    app = Flask("traced")

    @app.get("/scope")
    def scope() -> str:
        raise InsufficientScope

    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
    BasicAuth(app, backend)

    response = app.test_client().get("/scope", headers={"Authorization": issued.authorization})
    assert response.status_code == 403
    is_a_403(spans)
