"""Saved networks: what they were trained on, a hash of them, and one sentence for a folder that is damaged."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from videowm.files import read_json, short_hash
from videowm.types import UserError, first_line

REMEDY = "copy the run again, or train it again"
CONFIG = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}  # else config.json
WITHOUT_WEIGHTS = tuple(CONFIG)


@dataclass(frozen=True)
class TrainedOn:
    """Statistics and names of the training data; saved in the transformer's configuration."""

    latents_mean: list[float]  # per latent channel
    latents_std: list[float]
    action_mean: list[float]  # per action
    action_std: list[float]
    action_names: list[str]
    world: str
    fps: float
    window: int  # latent steps seen at once
    vae_hash: str
    text: dict | None = None  # how captions were read and drawn (`videowm.train.words.TextConfig`)
    drop_actions: float = 0.0  # share of samples without actions


def network_hash(model: nn.Module) -> str:
    """16 hexadecimal digits over a diffusers model's weights, in float32, and its configuration.

    Values that are their argument's default are left out: a network keeps its hash when its class gains an argument.
    """
    default = {name: p.default for name, p in inspect.signature(type(model).__init__).parameters.items()}
    given = {key: value for key, value in dict(model.config).items() if not key.startswith("_")}
    config = {key: value for key, value in given.items() if key not in default or value != default[key]}
    weights = (
        f"{name} {short_hash(tensor.detach().float().cpu().contiguous().numpy().tobytes())}"
        for name, tensor in sorted(model.state_dict().items())
    )
    return short_hash(json.dumps(config, sort_keys=True), *weights)


def check_hash(what: str, model: nn.Module, expected: str | None, hash_of: Callable[[nn.Module], str]) -> None:
    """Refuse a model whose hash is not the expected one; None: unknown. Weights cast to half precision pass unchecked.

    Raises:
        UserError: weights or configuration changed since they were saved.
    """
    if expected is not None and model.dtype == torch.float32 and (found := hash_of(model)) != expected:
        where = model.config.get("_name_or_path") or "in memory"
        raise UserError(f"the {what} {where} has the hash {found}, but this model was saved with {expected}: {REMEDY}")


def check_folder(folder: Path) -> None:
    """Refuse a pipeline's folder that was copied in half.

    Raises:
        UserError: a file is missing, cut or not JSON; the sentence names it.
    """
    for name, value in read_json(folder / "model_index.json", REMEDY).items():
        if name.startswith("_") or not isinstance(value, list) or value[:1] == [None]:
            continue
        part = folder / name
        read_json(part / CONFIG.get(name, "config.json"), REMEDY)
        weights = [*part.glob("*.safetensors"), *part.glob("*.bin")]
        if not weights and name not in WITHOUT_WEIGHTS:
            raise UserError(f"{part} holds no weights (*.safetensors): {REMEDY}")
        for path in weights:
            check_weights(path)


def check_weights(path: Path) -> None:
    """Refuse a safetensors file that is cut, or whose table of contents is damaged. Values are not read.

    Raises:
        UserError: the file cannot be opened as safetensors.
    """
    if path.suffix != ".safetensors":
        return
    try:
        with safe_open(path, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is cut or damaged ({first_line(error)}): {REMEDY}") from None


@contextmanager
def loading(folder: str | Path) -> Iterator[None]:
    """Within it, what diffusers raises over a folder becomes one sentence.

    Raises:
        UserError: the folder cannot be loaded.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be loaded ({first_line(error)}): {REMEDY}") from error
