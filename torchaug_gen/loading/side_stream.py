"""The side stream on which batches are copied, drawn and transformed while the consumer trains on its own."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from torchaug_gen import batch as batches
from torchaug_gen.loading.plan import Delivery, Plan


class SideStreams:
    """One CUDA stream for each device that batches are made on, for the loader's life.

    A stream for each pass would leave each pass its own share of the allocator's memory.

    Args:
        device: where batches go, or ``None`` for where they are.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def on(self, device: torch.device) -> torch.cuda.Stream:
        """Return the stream of a device."""
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]

    def __getstate__(self) -> dict[str, Any]:
        # Streams belong to this process.
        return {"_streams": {}}


class Given:
    """A plan, and the event behind which its batch may be read where the inner loader delivers on CUDA already."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.device = next((tensor.device for tensor in batches.tensors(plan.batch) if tensor.is_cuda), None)
        self.event: torch.cuda.Event | None = None
        if self.device is not None:
            # On the consumer's thread, whose stream has made the batch.
            self.event = torch.cuda.current_stream(self.device).record_event()


class Aside:
    """Composes batches on a side stream; called in the background thread.

    Args:
        compose: makes the batch of a plan.
        streams: the loader's.
        device: where batches go, or ``None`` for where they are.
    """

    def __init__(
        self, compose: Callable[[Plan], Delivery], streams: SideStreams, *, device: torch.device | None
    ) -> None:
        self._compose, self._streams = compose, streams
        self._device = device if device is not None and device.type == "cuda" else None
        if self._device is not None:
            # What the synthesizer's weights are waiting for has been asked for by now.
            self._streams.on(self._device).wait_stream(torch.cuda.current_stream(self._device))

    def __call__(self, given: Given) -> Delivery:
        """Return the batch, and the event that the consumer's stream has to wait for."""
        device = self._device or given.device
        if device is None:
            return self._compose(given.plan)
        stream = self._streams.on(device)
        with ExitStack() as stack:
            stack.enter_context(torch.cuda.stream(stream))
            if given.event is not None:
                stream.wait_event(given.event)
                for tensor in batches.tensors(given.plan.batch):
                    if tensor.is_cuda:
                        # It is the consumer's stream's memory, and in use on this one until here.
                        tensor.record_stream(stream)
            delivery = self._compose(given.plan)
            return replace(delivery, ready=stream.record_event())


def receive(delivery: Delivery) -> None:
    """Make the consumer's current stream wait for a batch, and keep its memory until that stream is done with it."""
    if delivery.ready is None:
        return
    for tensor in batches.tensors(delivery.batch):
        if tensor.is_cuda:
            stream = torch.cuda.current_stream(tensor.device)
            stream.wait_event(delivery.ready)
            tensor.record_stream(stream)
