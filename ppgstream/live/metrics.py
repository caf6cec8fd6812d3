"""Metrics for Prometheus, and whether the daemon is ready and well, over HTTP on loopback. Needs prometheus-client.

The thread that answers asks the daemon's own status socket, as any monitor does: so what it costs is bounded as theirs, and a
daemon whose loop stands still is not well.
"""

from __future__ import annotations

import http
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from ppgstream.errors import PpgStreamError, SourceError
from ppgstream.live.keys import Key
from ppgstream.live.round import LAG_BUCKETS_MS
from ppgstream.live.snapshot import OUTCOMES, Snapshot
from ppgstream.live.status import StatusClient
from ppgstream.live.watch import TROUBLES

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

ANSWER_S = 2.0
MOST_STREAMS = 200  # with series of their own; of more, only how many are in which trouble
MOST_AT_ONCE = 32  # connections
REQUEST_S = 5.0


def unwell(s: Snapshot | None) -> str:
    """Why a daemon is not well; empty if it is."""
    return f"the daemon has not answered for {ANSWER_S:g} s" if s is None else s.unwell


def families(s: Snapshot) -> Iterator[Metric]:
    """The metrics of a snapshot."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

    def gauge(name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"ppgstream_{name}", text, value=value)

    def counters(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
        family = CounterMetricFamily(f"ppgstream_{name}", text, labels=[label])
        for key, value in values.items():
            family.add_metric([key], value)
        return family

    about = {"version": s.version, "family": s.checkpoint.family, "checkpoint": s.checkpoint.id}
    yield InfoMetricFamily("ppgstream", "The daemon and its checkpoint", about)
    yield gauge("uptime_seconds", "Since the start", s.uptime_s)
    yield CounterMetricFamily("ppgstream_cpu_seconds", "Processor time since the start", value=s.cpu_s)
    yield gauge("memory_peak_bytes", "The most memory that the process has had", 1024 * s.max_rss_kb)
    yield gauge("streams", "Streams that are known", s.streams_total)
    yield gauge("subscriptions", "Subscriptions to the output", s.subscribers)
    yield gauge("samples_per_second", "Samples accepted a second, over the last 5 s", s.samples_per_s)
    yield gauge("windows_per_second", "Windows denoised a second, over the last 5 s", s.windows_per_s)
    yield gauge("queue_windows", "Windows that wait for the model", s.queues.ready_windows)
    yield gauge("queue_limit_windows", "Windows that may wait before the input is read no further", s.queues.ready_limit)
    yield gauge("model_windows", "Windows in the model", s.queues.model_windows)
    yield gauge("samples_in_flight", "Samples that are accepted and not yet published", s.ledger.in_flight)
    yield gauge("samples_unaccounted", "By how much the ledger does not add up: 0", s.ledger.unaccounted)
    yield gauge("model_answered_seconds", "Since the model last answered a window", s.window_s)
    yield gauge("healthy", "1 if /healthz says so", float(not unwell(s)))
    yield counters("samples", "Samples by what became of them", "outcome", {k: getattr(s.ledger, k) for k in OUTCOMES})
    messages = {"received": s.messages.received, "malformed": s.messages.malformed, "published": s.messages.published}
    yield counters("messages", "Messages by what became of them", "kind", messages)
    yield counters("events", "Events by name (docs/reliability.md)", "name", s.events)
    if s.shadow is not None and (told := s.shadow.figures) is not None:
        names = ("seconds", "sure_serving", "sure_new", "sure_both", "differ")
        seconds = {name: getattr(told, name) for name in names}
        yield counters("shadow_seconds", "Seconds that a shadow and the serving checkpoint answered", "kind", seconds)
    yield CounterMetricFamily("ppgstream_unclean_sessions", "Sessions that ended without an END", value=s.unclean_sessions)
    yield CounterMetricFamily("ppgstream_log_lines_lost", "Lines of the log that could not be written", value=s.log_lost)
    lag = HistogramMetricFamily("ppgstream_lag_seconds", "From the arrival of a window's last sample to its publication")
    edges = [f"{ms / 1000:g}" for ms in LAG_BUCKETS_MS] + ["+Inf"]
    lag.add_metric([], list(zip(edges, s.lag_counts, strict=True)), s.lag_sum_ms / 1000)
    yield lag
    troubled = GaugeMetricFamily("ppgstream_streams_in_trouble", "Streams by their worst trouble", labels=["trouble"])
    for name in TROUBLES:
        troubled.add_metric([name], s.troubles.get(name, 0))
    yield troubled
    if s.streams_total <= MOST_STREAMS:
        yield from _of_streams(s)


def _of_streams(s: Snapshot) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    gauges: dict[str, tuple[str, Any]] = {
        "live": ("1 while a session is open", lambda row: float(row.live)),
        "silent_seconds": ("Since its last message", lambda row: row.silent_s),
        "confidence": ("Mean confidence of what was published last", lambda row: row.confidence),
        "heart_rate_bpm": ("The last heart rate", lambda row: row.bpm),
        "heart_rate_confidence": ("The probability that it is within 5 bpm", lambda row: row.bpm_confidence),
        "lag_seconds": ("Of its window published last", lambda row: row.lag_ms / 1000),
    }
    for name, (text, value) in gauges.items():
        family = GaugeMetricFamily(f"ppgstream_stream_{name}", text, labels=["stream"])
        for row in s.streams:
            if (found := value(row)) is not None:
                family.add_metric([row.name], found)
        yield family
    counter = CounterMetricFamily("ppgstream_stream_samples", "Samples by what became of them", labels=["stream", "outcome"])
    for row in s.streams:
        for outcome in OUTCOMES:
            counter.add_metric([row.name, outcome], getattr(row, outcome))
    yield counter


class MetricsServer:
    """Listens at HOST:PORT, a loopback address, from the start on, and answers once `serve` is called. Raises SourceError where
    the port is in use."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        outer = self
        self.turn = threading.BoundedSemaphore(MOST_AT_ONCE)

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_S

            def do_GET(self) -> None:
                self.reply(body_too=True)

            def do_HEAD(self) -> None:
                self.reply(body_too=False)

            def reply(self, *, body_too: bool) -> None:
                status, kind, body = outer.answer(self.path, self.headers.get("Host", ""))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if body_too:
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            daemon_threads = True

            def process_request(self, request: Any, client_address: Any) -> None:
                if outer.turn.acquire(blocking=False):
                    super().process_request(request, client_address)
                else:
                    self.shutdown_request(request)  # too many at once

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                try:
                    super().process_request_thread(request, client_address)
                finally:
                    outer.turn.release()

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that has gone

        try:
            self._server = Listener((host.strip("[]"), 0 if port == "*" else int(port)), Handler)
        except OSError as error:
            raise SourceError(f"metrics.endpoint {address}: cannot be listened at: {error.strerror}") from error
        self.address = f"{host}:{self._server.server_address[1]}"
        self._hosts = {self.address, f"localhost:{self._server.server_address[1]}"}
        self._status = ""
        self._key: Key | None = None

    def serve(self, status: str, key: Key | None = None) -> None:
        """Answer from now on, by what the status socket `status` tells. key: for it."""
        self._status, self._key = status, key
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def release(self) -> None:
        """Give the port back, of one that does not serve."""
        self._server.server_close()

    def close(self) -> None:
        """Serve no longer."""
        self._server.shutdown()
        self.release()

    def answer(self, path: str, host: str) -> tuple[http.HTTPStatus, str, bytes]:
        """Status, type and body of a request."""
        text = "text/plain; charset=utf-8"
        if host not in self._hosts:
            return http.HTTPStatus.FORBIDDEN, text, b"this is served to this machine alone\n"
        if path not in ("/metrics", "/healthz", "/readyz"):
            return http.HTTPStatus.NOT_FOUND, text, b"there are /metrics, /healthz and /readyz\n"
        s = self._ask()
        if path == "/metrics" and s is not None:
            return http.HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", exposition(s)
        why = unwell(s) if path != "/readyz" else "" if s is not None and s.state == "running" else "not ready"
        if why:
            return http.HTTPStatus.SERVICE_UNAVAILABLE, text, f"{why}\n".encode()
        return http.HTTPStatus.OK, text, b"ok\n"

    def _ask(self) -> Snapshot | None:
        try:
            client = StatusClient(self._status, key=self._key)
            try:
                return client.ask(ANSWER_S, rows=MOST_STREAMS)
            finally:
                client.close()
        except PpgStreamError:
            return None


def exposition(s: Snapshot) -> bytes:
    """A snapshot as Prometheus reads it."""
    from prometheus_client import CollectorRegistry, generate_latest

    class Told:
        def collect(self) -> Iterator[Metric]:
            return families(s)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Told())
    return generate_latest(registry)
