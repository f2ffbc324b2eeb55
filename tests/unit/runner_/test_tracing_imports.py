"""What components carry of OpenTelemetry: nothing that records or sends, until an endpoint is set.

redis-py itself imports the package of metrics where it is installed.
"""

import os
import subprocess
import sys

import pytest

SENDING = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf")
CODE = """
import asyncio, importlib, os, sys
importlib.import_module(sys.argv[1])
from headrace_bus.tracing import opened

async def begin():
    async with opened(os.environ, "s", "i") as tracing:
        tracing.begin("a").end()

asyncio.run(begin())
print(*[name for name in sys.argv[2:] if name in sys.modules])
"""
MAINS = ("headrace_runner.main", "headrace_operator.main", "headrace_facade.main")


def imported(main: str, **environment: str) -> list[str]:
    """Of SENDING; a warning is an error."""
    command = [sys.executable, "-W", "error", "-c", CODE, main, *SENDING]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**clean, **environment})
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("main", MAINS)
def test_without_an_endpoint_nothing_is_imported(main: str) -> None:
    assert imported(main) == []


def test_an_endpoint_that_is_switched_off_costs_nothing_either() -> None:
    off = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}
    assert imported("headrace_runner.main", **off) == []


def test_with_an_endpoint_it_is() -> None:
    assert imported("headrace_runner.main", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1") == list(SENDING)
