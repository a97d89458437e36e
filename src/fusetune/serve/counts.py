"""What a server counts, for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector

SHARED = "PROMETHEUS_MULTIPROC_DIR"  # where several worker processes keep their numbers
_SECONDS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Counts:
    """The counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ours = self.registry
        self._requests = Counter("fusetune_requests", "Replies.", ["route", "status"], registry=ours)
        self._seconds = Histogram(
            "fusetune_request_seconds",
            "Seconds from a request to its reply.",
            ["route"],
            buckets=_SECONDS,
            registry=ours,
        )
        self._rows = Counter("fusetune_rows", "Rows that were predicted.", registry=ours)
        self._batches = Histogram("fusetune_batch_rows", "Rows of one pass.", buckets=_ROWS, registry=ours)
        self._waiting = Gauge("fusetune_rows_waiting", "Rows that wait.", multiprocess_mode="livesum", registry=ours)
        self._inside = Gauge(
            "fusetune_requests_inside", "Requests at work.", multiprocess_mode="livesum", registry=ours
        )
        self._loads = Counter("fusetune_model_loads", "Models that were read.", ["outcome"], registry=ours)
        if SHARED not in os.environ:
            ProcessCollector(registry=self.registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a reply."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def inside(self, change: int) -> None:
        """Count requests in and out."""
        self._inside.inc(change)

    def batch(self, rows: int, waiting: int) -> None:
        """Count a batch, and the rows that it left waiting."""
        self._batches.observe(rows)
        self._rows.inc(rows)
        self._waiting.set(waiting)

    def load(self, outcome: str) -> None:
        """Count a model that was read, or could not be."""
        self._loads.labels(outcome).inc()

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format, of all worker processes."""
        registry = self.registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return bytes(generate_latest(registry))
