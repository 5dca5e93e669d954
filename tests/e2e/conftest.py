"""One whole stack for all e2e tests of a session, as `make run` would start it, on free ports."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from dev.options import private
from dev.stack import Stack


class Collector(TraceServiceServicer):
    """Takes the spans of all parts as a collector would: by trace id, the services it went through."""

    def __init__(self) -> None:
        self.traces: dict[bytes, set[str]] = defaultdict(set)
        self.target = ""

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            service = next(
                a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
            )
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.traces[span.trace_id].add(service)
        return pb.ExportTraceServiceResponse()


@pytest.fixture(scope="session")
async def collector() -> AsyncIterator[Collector]:
    """A collector of traces on a free port, at `.target`."""
    made, server = Collector(), grpc.aio.server()
    register: Any = add_TraceServiceServicer_to_server  # untyped
    register(made, server)
    made.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield made
    await server.stop(None)


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> AsyncIterator[Stack]:
    """A running stack with the catalogue: `.addresses.graphql`, `.sandbox`, `.mail_folder` and so on.

    `await stack.kill(name)` ends a part as a crash would, `await stack.restart(name)` brings it back; a test
    that kills a part brings it back itself, because others use the same stack.
    """
    with patch.dict(os.environ, OTLP_ENDPOINT=collector.target, OTEL_BSP_SCHEDULE_DELAY="200"):
        async with Stack(private(tmp_path_factory.mktemp("stack"))) as running:
            yield running
            dead = running.dead()
            assert not dead, running.obituary(dead)
