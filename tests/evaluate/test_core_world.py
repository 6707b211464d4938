"""A world that defines only the core: everything that can be measured is, and what cannot is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaling.futures import Rolled, two_futures
from videowm.data.dataset import Dataset
from videowm.data.encode import encode_dataset
from videowm.data.recording import record_episodes
from videowm.data.state_captions import caption_from_state
from videowm.evaluate.rollouts import RolloutConfig, held_out_starts
from videowm.pipeline import WorldModelPipeline
from videowm.train.loop import launch
from videowm.types import UserError
from videowm.vae.codec import to_float

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny_data(tiny_package, tmp_path_factory):
    """Six episodes of a world without states, names of actions, captions, facts, things to count or noise."""
    out = tmp_path_factory.mktemp("tiny") / "data"
    return record_episodes("tiny", out, episodes=6, frames=33, seed=3, test_share=1 / 3)


def test_an_evaluation_of_a_core_world(tiny_data, codec, vae_run, train_world, tmp_path, videowm):
    """Guards KeyErrors for a world that is not ours: record, encode, train, generate and evaluate run through."""
    encode_dataset(Dataset(tiny_data), codec, tmp_path / "latents", vae=str(vae_run), to_frames=to_float, frames=17,
                   dtype="fp16", batch=4)  # fmt: skip
    run, reader = tmp_path / "run", tmp_path / "reader"
    train_world(run, f"latents={tmp_path / 'latents'}", "train.steps=2")
    small = ["reader.state=[]", "reader.width=8", "train.steps=2", "train.batch=2", "train.precision=fp32"]
    config = ROOT / "configs/reader/carracing.yaml"
    launch(config, [f"data={tiny_data}", f"out={reader}", "train.trackers=[]", *small])
    given = ["--clips", 2, "--horizon", 12, "--context", 5, "--reader", reader]
    ended = videowm("evaluate", run, *given)
    assert not ended.code, ended.errors
    metrics = json.loads((run / "evaluation.json").read_text())
    assert "has no states" in metrics["counterfactual/game_refused"] and (run / "evaluation.html").exists()
    assert {"rollout/lead", "heldout/action_gap", "control/delta_psnr", "surprise/error"} <= set(metrics)
    assert not [name for name in metrics if name.startswith(("count/", "text/", "state/"))]
    pipeline, settings = WorldModelPipeline.open(run), RolloutConfig(clips=1, context_frames=5, horizon=12)
    start = held_out_starts(pipeline, Dataset(tiny_data), settings)
    assert two_futures(Rolled(start, {}, pipeline, settings)).png.startswith(b"\x89PNG"), "no left and no right"
    ended = videowm("generate", run, "--from", tiny_data, "--context", 5, "--actions", "left*4", "--out", run / "a.mp4")
    assert ended.code == 2 and "'tiny' has no named actions: give a table (.csv" in ended.errors[-1]
    (tmp_path / "a.csv").write_text("down,across,fire\n" + "1,0,0\n" * 4)
    ended = videowm("generate", run, "--from", tiny_data, "--context", 5, "--actions", tmp_path / "a.csv")
    assert ended.code == 2 and "actions have shape (4, 3), expected (frames - 1, 2)" in ended.errors[-1]


def test_captions_of_a_core_world(tiny_data):
    """Guards empty captions for every clip."""
    with pytest.raises(UserError, match="no recorded states that its world can put into words"):
        caption_from_state(tiny_data, clip_frames=17)
