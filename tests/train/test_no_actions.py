"""Videos without actions go through every stage: import, encode, training, its evaluation and generation."""

from __future__ import annotations

import pytest

from videowm import api
from videowm.data.dataset import Dataset
from videowm.data.doctor import examine
from videowm.data.encode import encode_dataset
from videowm.data.import_ import import_dataset
from videowm.options import EvaluateOptions, GenerateOptions, ImportOptions
from videowm.types import UserError
from videowm.vae.codec import to_float


def test_a_world_model_of_videos_alone(dataset, codec, vae_run, train_world, tmp_path):
    """Guards a division by the spread of an action that is always 0, and a width that some stage cannot have.

    Where there are no actions, none of the numbers, warnings and sentences about obeying them may appear.
    """
    data = Dataset(import_dataset(dataset, tmp_path / "data", ImportOptions(no_actions=True)))
    assert data.action_names == ("none",) and not [line for line in examine(data) if "none" in line]
    encode_dataset(data, codec, tmp_path / "latents", vae=str(vae_run), to_frames=to_float, frames=33, dtype="fp16",
                   batch=4)  # fmt: skip
    run = tmp_path / "run"
    record = train_world(run, f"latents={tmp_path / 'latents'}", "train.steps=2", "train.gate.after=0.5")
    assert record["metrics"]["heldout/loss"] > 0 and "heldout/action_gap" not in record["metrics"]
    assert '"gate"' not in (run / "metrics.jsonl").read_text()
    found = api.evaluate(run, EvaluateOptions(clips=1, horizon=4))
    assert found["fidelity/psnr"] > 0 and not [name for name in found if name.startswith("control/")]
    assert found["counterfactual/game_refused"].startswith("no action varies in the data")
    with pytest.raises(UserError, match="was trained on .* without actions: give none"):
        api.generate(run, data.root, tmp_path / "clip.mp4", GenerateOptions(actions="left*4"))
