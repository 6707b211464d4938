"""The benchmarks run tiny on a CPU: what they time is real, and a GPU call holds no surprise."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import carry_over
import decision_law
import describer
import design
import dream
import evaluation
import gym_worlds
import label_share
import large_latents
import latent_actions
import law_coverage
import peers
import play
import rollout
import stages
import study
import timing
import train_step
import vae_rollouts
import video
import words

import scaling.__main__ as scaling
from scaling.law import Law
from videowm import config as configuration
from videowm.cli import parser
from videowm.data.dataset import Dataset
from videowm.record import RunRecord
from videowm.train import registry

WORK = peers.Work("tiny", 16, steps=4)


def test_a_described_clip_keeps_one_to_all_facts():
    """Guards facts that are cut in two or out of order, and a caption that loses facts each time it is looked at."""
    whole = "Someone is seen walking, turning left, from a hall, to a room, in all a quarter."
    told = {describer.fewer(whole, 5, np.random.default_rng(i)) for i in range(60)}
    assert whole in told and {caption.count(",") for caption in told} == {0, 1, 2, 3, 4}
    for caption in told:
        phrases = caption.removeprefix("Someone is seen ").rstrip(".").split(", ")
        assert [p for p in whole.removeprefix("Someone is seen ").rstrip(".").split(", ") if p in phrases] == phrases
        assert caption == whole or describer.fewer(caption, 5, np.random.default_rng(0)) == caption
    assert describer.fewer("No such sentence.", 5, np.random.default_rng(0)) == "No such sentence."


@pytest.mark.parametrize("name", peers.MODELS)
def test_every_model_is_trained_whole(name):
    """An adapter that feeds a peer so that parts of it get no gradient, and are not paid for.

    Queries and keys of cross-attention to a single token of text are the known exception: their softmax is 1.
    """
    model = peers.build(name, WORK, "cpu")
    latents, level, actions, target = WORK.batch(2, "cpu")
    velocity = model(latents, level, actions)
    torch.nn.functional.mse_loss(velocity, target).backward()
    assert velocity.shape == latents.shape
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    single = {"attn2.to_q", "attn2.to_k", "attn2.norm_q", "attn2.norm_k", "text_proj", "norm2.weight", "norm2.bias"}
    assert not {n for n in idle if not any(part in n for part in single)}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [name for name in peers.MODELS if name != "gpt"])
def test_models_hear_the_noise_level(name):
    """A peer that ignores its timestep skips work that ours does."""
    model = peers.build(name, WORK, "cpu")
    latents, _, actions, _ = WORK.batch(1, "cpu")
    with torch.no_grad():
        low, high = (model(latents, torch.full((1, WORK.steps), level), actions) for level in (0.1, 0.9))
    assert rollout.distance(low, high) > 1e-3


@pytest.mark.parametrize("size", ["S", "B", "L"])
def test_parameters_match_ours(size):
    """A peer that is smaller or larger than ours beyond half a layer, or than the size says."""
    work = peers.Work(size)
    count = {n: peers.parameters(peers.on_meta(n, work, peers.depth_of(n, work))) for n in ("ours", *peers.PEERS)}
    for name in peers.PEERS:
        assert count[name] == pytest.approx(count["ours"], rel=0.08), (name, count)


def test_training_flops_of_gpt_are_its_matrices():
    """A counter that misses attention or the backward pass makes MFU a fiction."""
    work, width, length = WORK, WORK.hidden, WORK.steps * WORK.tokens
    block = 24 * length * width**2 + 4 * length**2 * width
    ends = 2 * 2 * length * width * 4 * work.channels
    backward_of_inputs = 2 * length * width * 4 * work.channels  # the latents need no gradient
    expected = 3 * (peers.SIZES["tiny"][1] * block + ends) - backward_of_inputs
    assert peers.training_flops("gpt", work) == expected


def test_train_step_runs_and_resumes(tmp_path, capsys):
    """A cut-off that loses rows, or a second call that measures again what is there."""
    out = tmp_path / "train.json"
    call = ["--size", "tiny", "--tokens", "16", "--seconds", "0", "--out", str(out)]
    train_step.main([*call, "--models", "gpt", "wan"])
    before = json.loads(out.read_text())
    rows = {row["model"]: row for row in train_step.main([*call, "--models", "gpt", "ours", "--again", "gpt"])}
    assert [r["model"] for r in before] == ["gpt", "wan"]
    assert rows["wan"] == before[1]
    assert rows["gpt"]["ms"] != before[0]["ms"]
    assert not [row for row in rows.values() if "error" in row]
    assert "ours (eager) / wan (eager) in tokens/s" in capsys.readouterr().out


def test_a_model_that_fails_is_a_row(tmp_path):
    """One failure that ends the call, or that counts as measured when the call is repeated."""
    results = timing.Results(tmp_path / "rows.json", ("model",))
    options = Namespace(again=[], stop_after=None)
    timing.attempt(results, {"model": "a"}, lambda: 1 / 0, options)
    assert "ZeroDivisionError" in json.loads((tmp_path / "rows.json").read_text())[0]["error"]
    timing.attempt(results, {"model": "a"}, lambda: {"ms": 1.0}, options)
    assert [row["ms"] for row in results.rows] == [1.0]


@pytest.mark.parametrize(
    "chain",
    [
        *(partial(evaluation.chain, world, size=size, budget=3e16, workers=2)
          for size, world in product((evaluation.FULL, evaluation.TINY), evaluation.FULL.episodes)),
        *(partial(words.chain, size=size, budget=3e16, workers=2, world=world)
          for world, size in [*words.FULL.items(), ("carracing", words.TINY)]),
        *(partial(study.chain, world, size=size, workers=2, jobs=2, vae=None)
          for sizes in (study.FULL, study.TINY) for world, size in sizes.items()),
        *(partial(label_share.first_chain, world, size=size, vae=None, shares=[0.001, 0.3], workers=2)
          for sizes in (label_share.FULL, label_share.TINY) for world, size in sizes.items()),
        *(partial(label_share.second_chain, world, size=size, labels={0.001: "labelled/0"}, decisions=8)
          for sizes in (label_share.FULL, label_share.TINY) for world, size in sizes.items()),
        *(partial(latent_actions.chain, world, size=size, args=latent_actions.parser().parse_args(["--out", "x"]))
          for size in (latent_actions.FULL, latent_actions.TINY) for world in latent_actions.VAE),
        *(partial(latent_actions.model_chain, world, size=size, source="latent/0")
          for size in (latent_actions.FULL, latent_actions.TINY) for world in latent_actions.VAE),
    ],
)  # fmt: skip
def test_every_stage_of_a_study_is_a_command(chain, tmp_path, monkeypatch):
    """A call of minutes on a GPU that ends at a renamed option, or at a setting that no configuration has, or whose
    stages wait for one that there is not."""
    monkeypatch.chdir(Path(__file__).parents[1])
    known: set[str] = set()
    for stage in chain(out=tmp_path):
        assert set(stage.needs) <= known and stage.name not in known
        known.add(stage.name)
        module, *arguments = stage.arguments
        if module == "scaling":
            scaling.parser().parse_args(arguments)
        elif module == "videowm":
            args = parser().parse_args(arguments)
            if args.verb == "train" and Path(args.config).exists():
                data = configuration.read(args.config, args.overrides)
                registry.build(data)


def test_stages_run_once_in_order_and_a_failure_ends_what_needs_it(tmp_path, capsys):
    """A stage that runs before its inputs are there, twice, or on those of a stage that failed."""
    script = tmp_path / "append.py"
    script.write_text("import sys; open(sys.argv[1], 'a').write(sys.argv[2]); sys.exit(sys.argv[2] == 'x')")

    def stage(name: str, *needs: str) -> stages.Stage:
        return stages.Stage(name, [f"{script}", f"{tmp_path}/{name}", name], needs)

    listed = [stage("b", "a"), stage("x"), stage("y", "x"), stage("a")]
    assert [name for name, _ in stages.run(listed, tmp_path, 2)] == ["a", "b"]
    assert "not run to the end: y" in capsys.readouterr().out
    assert not [name for name, _ in stages.run(listed, tmp_path, 2)]
    assert [(tmp_path / name).read_text() for name in "abx"] == ["a", "b", "xx"] and not (tmp_path / "y").exists()


def test_rollout_runs():
    """A rollout that is timed but wrong, or a peer whose window does not move on."""
    rows = rollout.main(["--size", "tiny", "--tokens", "64", "--seconds", "0"])
    assert [row["right"] for row in rows if row["model"] == "ours"] == ["yes", "yes"]
    assert not [row for row in rows if "error" in row]
    window = rollout.Window(peers.build("wan", WORK, "cpu").bfloat16(), WORK, 1, 2)
    before = window.latents.clone()
    new = window.step(torch.randn_like(window.noise))
    torch.testing.assert_close(window.latents[:, :-2], before[:, 1:-1], rtol=0, atol=0)
    torch.testing.assert_close(window.latents[:, -2:-1], new, rtol=0, atol=0)


def test_the_check_of_a_rollout_can_fail():
    """A check that passes a stream which has lost one step of its context."""
    torch.manual_seed(0)
    work = peers.Work("tiny", 16, steps=rollout.CONTEXT)
    context, _, _, noises = work.batch(1, "cpu")
    actions = torch.randn(1, 2 * rollout.CONTEXT, work.actions)
    model = rollout.model_in(torch.bfloat16, work)
    altered = torch.cat([context[:, :5], torch.randn_like(context[:, 5:6]), context[:, 6:]], dim=1)
    for given, right in ((context, "yes"), (altered, "NO")):
        stream = rollout.LatentStream(
            model, given, actions[:, : rollout.CONTEXT], sampler=rollout.euler(2), window=rollout.CONTEXT + 1
        )
        added = [rollout.step(stream, actions, noises, i) for i in range(3)]
        off = rollout.check(added, work, context, actions, noises, 2)
        assert off["right"] == right, off


def test_a_design_is_as_good_as_its_runs():
    """Guards errors that are not of the extrapolation: none without scatter, more with more of it."""
    study = Path(__file__).parents[1] / "benchmarks/studies/takecover/law.json"
    truth, plan = Law.from_json(study.read_text()), design.DESIGNS["3 sizes"]
    exact, some, more = (
        design.errors(truth, plan.runs(truth), scatter, "surface", 10)[10] for scatter in (0, 0.005, 0.02)
    )
    assert exact[1] < 0.1 < some[0] < more[0] and len(plan.runs(truth)) == 18


def test_exponents_are_another_study_s():
    """Guards constants that are not fitted anew, or targets that are: a law's own exponents fit it, others do not."""
    study = Path(__file__).parents[1] / "benchmarks/studies/takecover"
    truth = Law.from_json((study / "law.json").read_text())
    runs, targets = (replace(r, loss=truth.predict(r.n, r.d)) for r in carry_over.study(study))
    assert len(runs) == 22 and len(targets) == 2
    own = carry_over.transplanted(runs, targets, truth.params["alpha"], truth.params["beta"])
    other = carry_over.transplanted(runs, targets, 0.5, 0.4)
    assert own["root mean square"] < 0.01 and max(map(abs, own["targets"])) < 0.1
    assert other["root mean square"] > 0.5 and max(map(abs, other["targets"])) > 1


def test_readers_of_video_are_timed(dataset, monkeypatch):
    """Guards a rate of frames that were not read, and readers that differ without a word."""
    row = video.measure(Dataset(dataset), 9, count=3, rounds=1)
    assert row["decord"] > 0 and row["ratio"] == pytest.approx(row["PyAV"] / row["decord"], rel=0.01)
    monkeypatch.setattr(video.AVVideo, "frame", lambda self, index, frame=video.AVVideo.frame: frame(self, 0))
    with pytest.raises(SystemExit, match="differ on clips of 9 frames"):
        video.measure(Dataset(dataset), 9, count=3, rounds=1)


def test_trials_of_latents_are_compared_clip_by_clip(dataset, tmp_path, monkeypatch, capsys):
    """Guards differences that are not paired, a trial that no autoencoder can be built of, and a wrong call."""
    one, other = ({"psnr": [value + 1, value], "floor": [1, 2], "ceiling": [9, 9], "episode": [0, 1], "action_gap": 0.1}
                  for value in (20, 17))  # fmt: skip
    row = vae_rollouts.summary([one, one], [other])
    assert row["lead"] == 19 and row["difference"] == 3 and row["difference_se"] == 0 < row["lead_se"]
    monkeypatch.chdir(Path(__file__).parents[1])
    vae = ["vae.size.width=8", "train.steps=1", "train.batch=1", "evaluate.clips=1", "train.warmup=0"]
    world = ["hidden=32", "heldout.clips=2", "heldout.window=4", "heldout.context=2"]
    call = ["x", "--data", dataset, "--runs", tmp_path, "--trials", "8 channels, time stride 1", "--depth", 1,
            "--budget", 1e8, "--seeds", 1, "--clips", 1, "--vae", *vae, "train.trackers=[]", "train.precision=fp32",
            "--world", *world, "train.trackers=[]", "train.precision=fp32"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*map(str, call)])
    vae_rollouts.main()
    assert "| 8 channels, time stride 1 |" in capsys.readouterr().out
    for settings in vae_rollouts.TRIALS.values():
        data = configuration.read("configs/vae/base.yaml", vae_rollouts.overrides(settings))
        registry.build(data)


def test_made_up_latents_give_the_batches_of_real_ones(tmp_path, monkeypatch):
    """Guards a benchmark of files that training would not take, and batches other than all latents in memory give."""
    for name, value in {"CLIPS": 4, "STEPS": 9, "SHAPE": (4, 8, 8)}.items():
        monkeypatch.setattr(large_latents, name, value)
    monkeypatch.setattr(large_latents, "CONTENTS", 4)
    folder = tmp_path / "made/latents"
    index = large_latents.make(folder, 0)
    large_latents.remembered(folder, index)
    index.verify(folder)
    assert len(large_latents.same_batches(folder, tmp_path / "out", 20)) == 16
    assert large_latents.memory(os.getpid())[0] > 100 and large_latents.cpu_seconds(os.getpid()) > 0


def test_what_a_user_types_for_four_gymnasium_environments(tmp_path, capsys):
    """A command of the benchmark that the program no longer takes, and lines that a user wrote but are not counted."""
    for recipe in gym_worlds.RECIPES.values():
        for sizes in (gym_worlds.SMALL, gym_worlds.FULL):
            commands = gym_worlds.stages(recipe, tmp_path, sizes)
            assert [parser().parse_args(command).verb for command in commands.values()] == [
                "record", "train", "encode", "train",
            ]  # fmt: skip
            assert all(Path(word).exists() for command in commands.values() for word in command if "configs/" in word)
    assert [gym_worlds.lines_of(recipe) for recipe in gym_worlds.RECIPES.values()] == [0, 0, 0, 8]
    with pytest.raises(SystemExit) as ended:
        gym_worlds.main(["--help"])
    assert ended.value.code == 0 and "--only" in capsys.readouterr().out


def test_a_step_of_play_is_timed_beside_its_floor():
    """A trick that is not measured, or a floor that leaves out what a pass reads."""
    tricks = ["fp32", "bf16, graph, 1 evaluation"]
    rows = play.main(["speed", "--depth", "1", "--steps", "2", "--window", "3", "--tricks", *tricks])
    for row in rows:
        assert "error" not in row and row["ms"] > 0 and row["frames_s"] > 0 and row["floor_ms"] is None
        assert row["key_ms_max"]["p95"] > row["ms"] and row["key_ms_paced"]["p50"] > 40 and row["pixels_ms"] > 0
    assert play.with_gains(rows)[1]["gain"] == round(rows[0]["ms"] / rows[1]["ms"], 2)
    pipeline = play.random_pipeline(1, play.options().parse_args(["speed"]))
    counted = sum(p.numel() for p in pipeline.transformer.parameters())
    few, many = (play.floor(pipeline, n, half=True) for n in (1, 9))
    assert few["all_m"] == round(counted / 1e6, 1) and many["read_gb"] > few["read_gb"]


def test_a_soak_sees_what_grows():
    """A soak that calls a leak flat, or counts the warm-up as one."""
    rows = [{"minute": i, "rss_mb": 500 + (100 if i else 0), "ms_p50": 9.0, "ms_p95": 20.0} for i in range(30)]
    assert play.drift(rows)["rss_mb_a_minute"] == 0 and play.drift(rows)["ms_p95"] == [20.0, 20.0]
    leak = [row | {"rss_mb": row["rss_mb"] + 3 * row["minute"]} for row in rows]
    assert play.drift(leak)["rss_mb_a_minute"] == 3
    assert play.quantiles([1.0, 2.0, 3.0])["p50"] == 2.0 and play.quantiles([]) == {"count": 0}


def test_coverage_is_what_the_benchmark_says():
    """Guards a committed table that another code made: both studies' cases, again, within the bootstrap's noise."""
    kept = json.loads((law_coverage.ROOT / "benchmarks/law_coverage.json").read_text())
    for world in ("takecover", "carracing"):
        (before, *_) = [case for case in kept["cases"] if case["table"] == world]
        runs = law_coverage.study(world)
        below = runs.keep(runs.c <= 1.01 * before["fitted"])
        target = runs.keep(np.isclose(runs.c, before["target"]))
        row = law_coverage.combination(below, target, draws=40)[float(target.c[0])]
        assert 100 * (row[0] - np.log(target.loss[0])) == pytest.approx(before["error"]["combined"], abs=0.02)
        assert 100 * row[1] == pytest.approx(before["half"]["combined"], rel=0.15)
    assert {case["table"] for case in kept["cases"]} <= set(law_coverage.DESIGN) | set(law_coverage.HELD_BACK)
    for kind in ("all, 10x", "all, 30x"):
        said = kept[kind]
        assert 0.8 <= said["combined"]["coverage"] <= 0.97
        assert all(row["combined on these"]["error"] < row["error"] for name, row in said.items() if name != "combined")


def test_dreams_are_timed_and_measured(three_heads, three_run, three_data, monkeypatch):
    """Guards the commands that a GPU is to run: frames a second of many dreams, an agent's round, and decisions."""
    from videowm import worlds

    monkeypatch.setitem(worlds.BUILT_IN, "three", "three:Three")
    found = dream.main(["speed", str(three_run), "--rows", "2", "--steps", "2", "--warm", "1", "--horizon", "8"])
    assert found["speed"][0]["begun_anew"] >= 2 and found["speed"][0]["frames_per_second"] > 0
    assert found["gflop_per_video_second"] > 0 and found["real_frames_per_second"] > 100
    own = ["--starts", "4", "--context", "1", "--sampler", "steps=1", "method=euler"]
    (row,) = dream.main(["practice", str(three_run), "--rows", "4", "--steps", "1", *own])["practice"]
    assert row["dreams"] == 4 and row["round_ms"] > row["update_ms"] > 0 and row["video_ms"] > 0 < row["stock_ms"]
    monkeypatch.setattr(dream, "launch", lambda config, overrides: RunRecord.read(three_heads))
    small = ["--moments", "2", "--courses", "3", "--futures", "1", "--ceiling", "1"]
    latents = ["--latents", str(three_run.parent / "latents"), "--data", str(three_data)]
    found = dream.main(["decide", str(three_run), *latents, *small])
    assert found["decision"]["decision/moments"] == 2 and found["heads"]["heads/real_reward_r2"] > 0.5
    monkeypatch.setattr(dream, "SETTINGS", ({}, {"temperature": 0.0}, {"past_level": 0.5}, {"end_temperature": 9.0}))
    plain, *others = dream.main(["randomness", str(three_run), "--data", str(three_data), *small])["settings"]
    assert all(other["brier"] != plain["brier"] for other in others), "a setting does nothing"


def test_a_law_of_decisions(tmp_path):
    """Guards a slope of another axis, a metric that ranks runs upside down, and bounds or errors taken for metrics.

    Six runs by hand: regret is 0.5 (C / 1e12) ** -0.1, the loss falls with it, the lead over a repeated frame rises.
    """
    path = law_coverage.ROOT / "benchmarks/studies/takecover/records/d2-1.25e14-s1.json"
    real = RunRecord.from_json(json.loads(path.read_text()), path)
    for i in range(6):
        compute = 10.0 ** (12 + i)
        regret = 0.5 * (compute / 1e12) ** -0.1
        metrics = {"heldout/loss": regret, "heldout/loss_se": 1 / compute, "rollout/lead": 1 - regret}
        replace(real, name=f"r{i}", flops={"train": compute}, params={"body": 10**i}, metrics=metrics).write(
            tmp_path / f"r{i}"
        )
        later = {"decision/regret": regret, "decision/regret_se": 0.01}
        later |= {f"decision/regret_{key}": 0.2 for key in ("ceiling", "floor", "floor_repeat")}
        (tmp_path / f"r{i}/evaluation.json").write_text(json.dumps(later))
    picture = tmp_path / "law.png"
    found = decision_law.main([str(tmp_path), "--figure", str(picture)])[tmp_path.name]
    assert found["law"]["slope"] == pytest.approx(-0.1) and found["law"]["at_highest"] == pytest.approx(0.5 * 10**-0.5)
    assert set(found["ranking"]) == {"heldout/loss", "rollout/lead"} and picture.read_bytes()[1:4] == b"PNG"
    assert all(value == pytest.approx(1) for value, *_ in found["ranking"].values())


def test_the_curve_of_label_shares(tmp_path):
    """Guards a share of full control that is of another model, and hours of another share."""
    for name, gain in {"all": 2.0, "none": None, "labels-0.01": 1.8, "alone-0.01": 0.5}.items():
        (tmp_path / f"world-{name}").mkdir()
        numbers = {"control/delta_psnr": gain, "control/delta_psnr_se": 0.1, "heldout/loss": 0.5}
        (tmp_path / f"world-{name}/evaluation.json").write_text(json.dumps(numbers))
    (tmp_path / "label-0.01").mkdir()
    metrics = {"label/hours": 0.2, "label/left_accuracy": 0.9}
    RunRecord("label", 0, 1, 1, 1.0, 1.0, "CPU", {}, metrics).write(tmp_path / "label-0.01")
    rows = [label_share.row(tmp_path, name, 20.0) for name in label_share.models(tmp_path, {0.01: "labelled/0"})]
    found = {row["source"]: (row["share"], row["hours"], row["control/delta_psnr"]) for row in rows}
    assert found == {"all": (1.0, 20.0, 2.0), "none": (0.0, 0.0, None), "labels": (0.01, 0.2, 1.8),
                     "alone": (0.01, 0.2, 0.5)}  # fmt: skip
    assert rows[2]["labeller"] == {"label/left_accuracy": 0.9}
    assert label_share.figure(rows, "control/delta_psnr").startswith(b"\x89PNG")
