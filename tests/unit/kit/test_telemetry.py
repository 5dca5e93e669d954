"""Log lines and trace parents."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from opentelemetry import trace
from prometheus_client import CollectorRegistry, generate_latest

from kit.telemetry import ConsoleLine, JsonLine, Measured, parent_from, traceparent

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    raised = None
    if failed:
        try:
            raise RuntimeError("boom")
        except RuntimeError:
            raised = sys.exc_info()
    return logging.LogRecord("kit.x", logging.WARNING, "x.py", 1, message, arguments, raised)


def test_a_json_line_carries_level_service_trace_and_error() -> None:
    span = trace.NonRecordingSpan(trace.get_current_span(parent_from(PARENT)).get_span_context())
    with trace.use_span(span):
        line = json.loads(JsonLine("dossier").format(record("moved %s", "bàn", failed=True)))
    assert (line["level"], line["service"], line["message"]) == ("WARNING", "dossier", "moved bàn")
    assert line["trace"] == "0af7651916cd43dd8448eb211c80319c"
    assert "RuntimeError: boom" in line["error"]


def test_a_console_line_is_one_line_without_an_error() -> None:
    line = ConsoleLine("dossier").format(record("moved"))
    assert "\n" not in line
    assert "WARNING" in line
    assert line.endswith("moved")


def test_a_trace_goes_on_from_its_parent() -> None:
    context = parent_from(PARENT)
    assert context is not None
    assert traceparent(trace.get_current_span(context)) == PARENT
    assert traceparent() == ""


@pytest.mark.parametrize(
    "text",
    [None, "", "00", "00-xyz-b7ad6b7169203331-01", PARENT + "-x", "00-" + "0" * 32 + "-b7ad6b7169203331-01"],
)
def test_a_malformed_parent_begins_a_new_trace(text: str | None) -> None:
    assert parent_from(text) is None


def test_a_value_that_is_no_longer_measured_is_no_longer_shown() -> None:
    now = 0.0
    gauge = Measured("waiting", "What waits", ("kind",), fresh=30, clock=lambda: now)
    registry = CollectorRegistry()
    registry.register(gauge)
    gauge.set(3, "old")
    now = 20
    gauge.set(4, "new")
    assert 'waiting{kind="old"} 3.0' in generate_latest(registry).decode()
    now = 40
    text = generate_latest(registry).decode()
    assert 'waiting{kind="new"} 4.0' in text
    assert "old" not in text
    now = 60
    assert "waiting" not in generate_latest(registry).decode()
