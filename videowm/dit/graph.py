"""A training step of the network as two CUDA graphs: forward and backward, without Python between their kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Whole(nn.Module):
    """The network as a graph wants it: tensors in, one tensor out, parameters its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model.velocity(*inputs)


def record(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """Record `model.velocity` and its gradient for inputs of these shapes, under the autocast of now.

    It is recorded on ones: a mask of zeros would leave nothing to attend to. The graphs keep their memory. Gradients
    lie in the graph's own memory and the next step writes over them, so they must not be accumulated over calls.
    """
    torch.clear_autocast_cache()  # weights cast before would tie the graph to the stream of then
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # gradients come from the graph's stream
    half = torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", torch.get_autocast_dtype("cuda"), enabled=half, cache_enabled=False):
        return torch.cuda.make_graphed_callables(Whole(model), tuple(torch.ones_like(x) for x in inputs))
