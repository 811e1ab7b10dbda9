"""How long a forward took where it was computed."""

from time import perf_counter

import torch


class Stopwatch:
    """Runs from its making to `stop`.

    On a GPU a forward returns before it is computed, and waiting for it would hold up what comes
    next. So there the time is that between two events in the device's own stream of work, which is
    read when the work is done anyhow. (A model on several devices gives its logits on the first of
    them, so its stream ends after all others.) Elsewhere it is the time until `stop`.

    Args:
        device: where the answers are.

    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        if self._stream is not None:
            self._first, self._last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._first.record(self._stream)
        self._began = perf_counter()
        self._took = 0.0

    def stop(self) -> None:
        """End the time."""
        self._took = perf_counter() - self._began
        if self._stream is not None:
            self._last.record(self._stream)

    @property
    def seconds(self) -> float:
        """The time; waits for the device to be done."""
        if self._stream is None:
            return self._took
        self._last.synchronize()
        return float(self._first.elapsed_time(self._last)) / 1000  # from milliseconds
