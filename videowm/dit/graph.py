"""A training step of a network as two CUDA graphs, forward and backward, without Python between their kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Whole(nn.Module):
    """A network as a graph wants it: a call from tensors to tensors, and the parameters that it uses."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *inputs: Tensor) -> Any:
        return self.call(*inputs)


def capture(model: nn.Module, call: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The same call as CUDA graphs, for inputs of these shapes, under the current autocast; a GPU is needed.

    The graphs keep their memory. Gradients lie in it and the next step writes over them, so they must not be
    accumulated over calls. The capture runs on ones: a mask of zeros would leave nothing to attend to.

    Args:
        model: the network whose parameters get gradients.
        call: from tensors to tensors, by the network.
        inputs: tensors of the shapes and dtypes to capture.
    """
    torch.clear_autocast_cache()  # weights cast before would tie the graph to the stream of then
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # gradients come from the graph's stream
    half = torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", torch.get_autocast_dtype("cuda"), enabled=half, cache_enabled=False):
        return torch.cuda.make_graphed_callables(Whole(model, call), tuple(torch.ones_like(x) for x in inputs))
