"""`videowm play`: open runs and their recording, then serve the page."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from videowm.options import PlayOptions
from videowm.types import UserError

if TYPE_CHECKING:
    from videowm.play.model import Model


def play(runs: list[Path], options: PlayOptions) -> None:
    """Serve a page on which `runs` are played, until Ctrl-C.

    Raises:
        UserError: the extra is not installed, a run is not finished, or runs, recording and agents do not fit.
    """
    check_installed()
    from videowm.agents.agent import Agent
    from videowm.data.starts import dataset_of
    from videowm.play.access import Access
    from videowm.play.model import Model
    from videowm.play.server import serve
    from videowm.play.session import distinct
    from videowm.play.stage import PLAN, Stage

    device, lock = device_of(options.device), threading.RLock()
    if device.type == "cpu":
        leave_a_core()
    models = [Model.open(run, device, lock) for run in runs]
    agents = dict(zip(distinct([folder.name for folder in options.agent]), map(Agent.open, options.agent)))
    plan = replace(PLAN, futures=options.futures, horizon=options.horizon)
    stage = Stage.of(models, options.data or dataset_of(runs[0]), options.out, agents, plan)
    if device.type == "cuda":
        for model in models:
            warm(model)
    serve(stage, Access.of(options.host, options.token), options.port, sessions=options.sessions)


def check_installed() -> None:
    """Refuse to begin without the packages of the extra.

    Raises:
        UserError: one is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'videowm[play]'") from None


def warm(model: Model) -> None:
    """Play a few steps of nothing, so that a GPU compiles before the first player comes.

    From one frame and from a whole context: while the window fills, other kernels serve than later.
    """
    import numpy as np

    from videowm.play.dream import Dream

    trained_on, shape, stride = (
        model.pipeline.trained_on,
        model.pipeline.transformer.config,
        model.pipeline.codec.stride,
    )
    count, size = model.context_frames, (shape.height * stride[1], shape.width * stride[2])
    actions = np.tile(np.float32(trained_on.action_mean), (count - 1, 1))
    dream = Dream(model)
    for first in {1, count}:
        dream.start(np.zeros((first, *size, 3), np.uint8), actions[: first - 1], seed=0)
        for _ in range(3):
            dream.play(np.tile(np.float32(trained_on.action_mean), (1, model.stride, 1)))


def leave_a_core() -> None:
    """Compute on all cores but one, which the browser and the server need."""
    import torch

    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))


def device_of(name: str | None):
    """The device of that name; None: a GPU where there is one.

    Raises:
        UserError: there is no such device.
    """
    import torch

    from videowm.device import default_device

    if name is None:
        return default_device()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name!r} is not here: give cpu, or cuda on a machine with a GPU") from None
    return device
