"""Videos without actions go through every stage: import, encode, training and its evaluation."""

from __future__ import annotations

from videowm.data.dataset import Dataset
from videowm.data.encode import encode_dataset
from videowm.data.import_ import import_dataset
from videowm.options import ImportOptions
from videowm.vae.codec import to_float


def test_a_world_model_of_videos_alone(dataset, codec, vae_run, train_world, tmp_path):
    """Guards a division by the spread of an action that is always 0, and a width that some stage cannot have.

    Another episode's actions are the same zeros, so they add no loss: that is exact, and no luck.
    """
    data = Dataset(import_dataset(dataset, tmp_path / "data", ImportOptions(no_actions=True)))
    assert data.action_names == ("none",)
    encode_dataset(data, codec, tmp_path / "latents", vae=str(vae_run), to_frames=to_float, frames=33, dtype="fp16",
                   batch=4)  # fmt: skip
    record = train_world(tmp_path / "run", f"latents={tmp_path / 'latents'}", "train.steps=1")
    assert record["metrics"]["heldout/loss"] > 0 and record["metrics"]["heldout/action_gap"] == 0
