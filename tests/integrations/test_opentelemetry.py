"""Spans of the real OpenTelemetry instrumentations: a missing scope is no error, and the caller is named."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from basicauth_mw import (
    Backend,
    ConfigurationError,
    InsufficientScope,
    Issued,
    Settings,
    encode_basic,
    metrics,
    require_scopes,
)
from basicauth_mw.auth.discovery import find_authenticator
from basicauth_mw.integrations.fastapi import CurrentPrincipal, install
from basicauth_mw.integrations.flask import BasicAuth
from basicauth_mw.integrations.opentelemetry import instrument
from basicauth_mw.keys.generated_secrets import generate
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


# --- the caller and the decision as attributes


def make_app(backend: Backend, provider: TracerProvider, **settings: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/{path:path}")
    def read(path: str, caller: CurrentPrincipal) -> str:
        if path == "scope":
            require_scopes(caller, "other")
        return caller.client_id

    install(app, backend, settings=Settings(**settings))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, exclude_spans=["receive", "send"])
    return app


def attributes_of(spans: InMemorySpanExporter) -> dict[str, Any]:
    """The attributes of ours on the only server span; there is none on others."""
    found = {}
    for span in spans.get_finished_spans():
        ours = {
            name: value
            for name, value in (span.attributes or {}).items()
            if name.startswith(("enduser.", "basicauth."))
        }
        assert not ours or span.kind is SpanKind.SERVER
        found.update(ours)
    spans.clear()
    return found


def test_attributes_of_each_decision(
    backend: Backend, issued: Issued, spans: InMemorySpanExporter, provider: TracerProvider
) -> None:
    app = make_app(backend, provider, exclude=("/open",), throttle="2/minute")
    instrument(app)
    allowed = {"enduser.id": "ci", "basicauth.decision": "allow"}

    for _ in range(2):  # the second is allowed from the cache
        call(app, http_scope(issued.authorization, path="/me"))
        assert attributes_of(spans) == allowed
    call(app, http_scope(issued.authorization, path="/scope"))
    assert attributes_of(spans) == {
        "enduser.id": "ci",
        "basicauth.decision": "deny",
        "basicauth.reason": "insufficient_scope",
    }
    call(app, http_scope(path="/open"))
    assert attributes_of(spans) == {}
    for authorization, reason in [
        (None, "missing"),
        ("Basic !", "malformed"),
        (encode_basic("ci", generate("sk")), "wrong_secret"),
        (encode_basic("unknown", generate("sk")), "unknown"),
        (encode_basic("ci", generate("sk")), "wrong_secret"),
        (issued.authorization, "throttled"),
    ]:
        call(app, http_scope(authorization, path="/me"))
        assert attributes_of(spans) == {"basicauth.decision": "deny", "basicauth.reason": reason}


def test_no_span_contains_a_secret(
    backend: Backend, issued: Issued, spans: InMemorySpanExporter, provider: TracerProvider
) -> None:
    app = make_app(backend, provider)
    instrument(app)
    for authorization in (issued.authorization, encode_basic("ci", f"{issued.secret}x"), "Basic !canary"):
        call(app, http_scope(authorization, path="/me"))

    written = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "enduser.id" in written
    assert not any(text in written for text in (issued.secret, issued.token, "canary"))


def test_nothing_is_added_unless_instrumented(
    backend: Backend, issued: Issued, spans: InMemorySpanExporter, provider: TracerProvider
) -> None:
    app = make_app(backend, provider)
    call(app, http_scope(issued.authorization, path="/me"))

    assert len(spans.get_finished_spans()) == 1
    assert attributes_of(spans) == {}
    authenticator = find_authenticator(app)
    assert authenticator is not None
    assert authenticator.reader.hooks == ()


def test_together_with_metrics(
    backend: Backend, issued: Issued, spans: InMemorySpanExporter, provider: TracerProvider
) -> None:
    app = make_app(backend, provider)
    registry = CollectorRegistry()
    metrics.instrument(app, registry=registry)
    instrument(app)
    for authorization in (issued.authorization, issued.authorization, None):
        call(app, http_scope(authorization, path="/me"))

    counted = [
        registry.get_sample_value("basicauth_decisions_total", {"decision": decision, "reason": reason})
        for decision, reason in (("allow", "ok"), ("deny", "missing"))
    ]
    assert counted == [2, 1]
    assert registry.get_sample_value("basicauth_cache_hits_total") == 1
    assert attributes_of(spans) == {
        "enduser.id": "ci",
        "basicauth.decision": "deny",
        "basicauth.reason": "missing",
    }


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_flask_spans_name_the_caller(
    backend: Backend, issued: Issued, spans: InMemorySpanExporter, provider: TracerProvider, first: str
) -> None:
    app = Flask("traced")

    @app.get("/boom")
    def boom() -> str:
        raise ZeroDivisionError

    @app.get("/me")
    def me() -> str:
        return "me"

    BasicAuth(app, backend)
    steps = [
        lambda: instrument(app),
        lambda: FlaskInstrumentor().instrument_app(app, tracer_provider=provider),
    ]
    for step in steps if first == "ours" else reversed(steps):
        step()
    client = app.test_client()

    for path in ("/me", "/boom", "/unknown"):
        client.get(path, headers={"Authorization": issued.authorization})
        assert attributes_of(spans) == {"enduser.id": "ci", "basicauth.decision": "allow"}
    client.get("/me")
    assert spans.get_finished_spans() == ()


def test_it_is_instrumented_once(backend: Backend, provider: TracerProvider) -> None:
    app = make_app(backend, provider)
    instrument(app)
    with pytest.raises(ConfigurationError, match="already instrumented"):
        instrument(app)
    with pytest.raises(ConfigurationError, match="found no BasicAuthMiddleware in this FastAPI"):
        instrument(FastAPI())
    with pytest.raises(ConfigurationError, match="at least one"):
        instrument()


def test_the_wsgi_instrumentation_also_traces_refused_requests(
    backend: Backend, issued: Issued, spans: InMemorySpanExporter, provider: TracerProvider
) -> None:
    app = Flask("traced")
    BasicAuth(app, backend)
    instrument(app)
    app.wsgi_app = OpenTelemetryMiddleware(app.wsgi_app, tracer_provider=provider)  # type: ignore[method-assign]
    client = app.test_client()

    client.get("/", headers={"Authorization": issued.authorization}).get_data()
    assert attributes_of(spans) == {"enduser.id": "ci", "basicauth.decision": "allow"}
    client.get("/").get_data()
    assert attributes_of(spans) == {"basicauth.decision": "deny", "basicauth.reason": "missing"}
