"""Whether the model works: a window of a known pulse goes through it at the start, and whenever nothing else has for a while."""

from __future__ import annotations

import time
from concurrent.futures import Future

import numpy as np

from ppgstream.core.denoiser import Answer, Batch, Denoiser
from ppgstream.core.plan import Plan
from ppgstream.core.scaling import SCALES, scaled
from ppgstream.live.workers import Found, Workers

IDLE_S = 2.0  # without a window that the model has answered: then the canary is sent
HEALTHY_S = 5.0  # a daemon that has answered no window for longer is not well
BPM = 72.0


def canary_of(plan: Plan) -> Batch:
    """A window of a clean pulse as the model sees windows: (1, context + window)."""
    n = plan.geometry.context + plan.geometry.window
    wave = np.exp(2 * np.cos(2 * np.pi * BPM / 60 * np.arange(n) / plan.fs) - 2)
    x, valid = wave[None, :], np.ones((1, n), np.bool_)
    return Batch(scaled(x, SCALES[plan.scaling](x, valid), plan.scaling), valid)


def fault_of(found: Found, plan: Plan) -> str:
    """What is wrong with the model's answer to the canary; empty if nothing is. How good it is, is not asked: a network that was
    trained for a minute works too."""
    if isinstance(found, Exception):
        return f"{type(found).__name__}: {found}"
    if not isinstance(found, Answer) or found.y.shape != (1, plan.geometry.window):
        return "the answer to a window of a known pulse has another shape"
    return "" if np.isfinite(found.y).all() else "the answer to a window of a known pulse is not finite"


def self_test(denoiser: Denoiser, plan: Plan) -> str:
    """Try a model once: what is wrong with it, or nothing."""
    try:
        return fault_of(denoiser(canary_of(plan)), plan)
    except Exception as error:  # whatever the runtime raises
        return fault_of(error, plan)


class Canary:
    """Watches a running daemon's model. `answered` and `look` are called by the loop's thread."""

    def __init__(self, plan: Plan, workers: Workers) -> None:
        self._plan, self._workers = plan, workers
        self._batch = canary_of(plan)
        self._sent: Future[Found] | None = None
        self._answered_at = time.monotonic()  # the self-test has passed
        self.fault = ""  # of the last answer

    def change(self, plan: Plan) -> None:
        """Another model is served, of windows of the same length."""
        self._plan, self._batch = plan, canary_of(plan)

    def answered(self, now: float) -> None:
        """The model has answered a window of a stream."""
        self._answered_at, self.fault = now, ""

    def look(self, now: float) -> None:
        """A second is over."""
        if self._sent is not None and self._sent.done():
            self.fault = fault_of(self._sent.result(), self._plan)
            self._sent = None
            if not self.fault:
                self._answered_at = now
        if self._sent is None and now - self._answered_at > IDLE_S:
            self._sent = self._workers.try_out(self._batch)

    def window_s(self, now: float) -> float:
        """For how long the model has answered no window, s."""
        return now - self._answered_at

    def unwell(self, now: float) -> str:
        """Why the daemon is not well; empty if it is."""
        hangs_s, for_s = self._workers.oldest_s(now), self.window_s(now)
        if hangs_s > HEALTHY_S:
            return f"the model has not answered a call for {hangs_s:.0f} s, and all that follows waits for it"
        if for_s <= HEALTHY_S:
            return ""
        return self.fault or f"the model has answered no window for {for_s:.0f} s"
