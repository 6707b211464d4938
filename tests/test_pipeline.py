"""The world model as one folder: save and load, any length of context and future, the cached rollout's exactness."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from videowm.actions.group import drop_actions
from videowm.data.dataset import Dataset
from videowm.dit import DiT
from videowm.dit.attention import block_causal_mask
from videowm.dit.sample import Sampler, schedule
from videowm.dit.saved import network_hash
from videowm.dit.stream import rollout
from videowm.files import UMASK
from videowm.pipeline import WorldModelPipeline
from videowm.types import UserError
from videowm.vae.codec import to_float

PLAIN = {"method": "euler", "context_level": 0.0}  # a sampler that leaves the past as it is


@pytest.fixture(scope="module")
def pipeline(world_run) -> WorldModelPipeline:
    """The trained world model, shaken so that four steps of training are not all it knows."""
    pipeline = WorldModelPipeline.open(world_run)
    generator = torch.Generator().manual_seed(0)
    for parameter in pipeline.transformer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return pipeline


@pytest.fixture(scope="module")
def episode(dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames "1 f 3 64 64" and actions "1 f-1 a" of a held-out episode."""
    recording = Dataset(dataset)
    return to_float(recording.frames(4, range(69)))[None], torch.tensor(recording.actions(4))[None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive(model: DiT, context, actions, noise, *, sampling_steps: int, shift: float, window: int | None):
    """The rollout as it is defined: the whole sequence computed anew, without a cache, in every sampler step."""
    levels, known = schedule(sampling_steps, shift), context.shape[1]
    first = 0 if window is None else max(0, known - window + 1)
    steps, actions = list(context[:, first:].split(1, dim=1)), actions[:, first:]
    for i in range(noise.shape[1]):
        x = noise[:, i, None]
        for level, following in zip(levels[:-1], levels[1:], strict=True):
            whole = torch.cat([*steps, x], dim=1)
            at = torch.zeros(whole.shape[:2])
            at[:, -1] = level
            x = x + (following - level) * model(whole, at, actions[:, : whole.shape[1]])[:, -1:]
        steps.append(x)
    return torch.cat(steps[known - first :], dim=1)


@pytest.fixture(scope="module")
def rolled() -> dict:
    """A transformer with random weights, three context steps and four to predict."""
    torch.manual_seed(3)
    model = DiT(depth=2, channels=3, height=4, width=4, actions=5, hidden=32, heads=2).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    draw = seeded(1)
    shapes = {"context": (2, 3, 3, 4, 4), "actions": (2, 7, 5), "noise": (2, 4, 3, 4, 4)}
    return {"transformer": model} | {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@torch.no_grad()
@pytest.mark.parametrize(("sampling_steps", "shift"), [(1, 1.0), (4, 1.0), (3, 2.5)])
def test_the_cached_rollout_is_the_naive_one(rolled, sampling_steps, shift):
    """Guards the cache, the sampler's levels and the positions together: within 1e-5 of a rollout without any cache."""
    settings = {"sampling_steps": sampling_steps, "shift": shift}
    fast = rollout(**rolled, sampler=Sampler(sampling_steps, **PLAIN), shift=shift)
    slow = naive(rolled["transformer"], rolled["context"], rolled["actions"], rolled["noise"], **settings, window=None)
    assert ((fast - slow).norm() / slow.norm()).item() < 1e-5
    assert (fast - rolled["noise"]).norm() / slow.norm() > 0.1, "the model must have changed the noise"


@torch.no_grad()
def test_the_windowed_rollout_is_the_naive_one_under_a_band(rolled, monkeypatch):
    """Guards a window off by one: the cache with a window of 3 equals the whole sequence under a mask of 3 steps.

    Only the mask is exchanged in the reference; a window of 2 or 4 gives other numbers.
    """

    def band(steps, tokens, window):
        at = torch.arange(steps).repeat_interleave(tokens)
        return block_causal_mask(steps, tokens, window) & (at[:, None] - at[None, :] < 3)

    fast = {window: rollout(**rolled, sampler=Sampler(2, **PLAIN), window=window) for window in (2, 3, 4)}
    monkeypatch.setattr("videowm.dit.model.block_causal_mask", band)
    rolled["transformer"].masks.clear()
    slow = naive(rolled["transformer"], rolled["context"], rolled["actions"], rolled["noise"], sampling_steps=2,
                 shift=1.0, window=3)  # fmt: skip
    rolled["transformer"].masks.clear()
    errors = {window: ((out - slow).norm() / slow.norm()).item() for window, out in fast.items()}
    assert errors[3] < 1e-5 < 1e-3 < min(errors[2], errors[4]), errors


@torch.no_grad()
def test_later_actions_change_no_earlier_step(rolled):
    """Guards actions given to the wrong step: from the changed action on all steps differ, before it none."""
    other = rolled | {"actions": rolled["actions"].clone()}
    other["actions"][:, 5] += 1
    one, two = (rollout(**given, sampler=Sampler(2)) for given in (rolled, other))
    assert torch.equal(one[:, :2], two[:, :2]) and (one[:, 2:] != two[:, 2:]).flatten(2).any(2).all()


def test_save_and_load(pipeline, episode, tmp_path):
    """Guards anything a folder does not hold: the loaded pipeline rolls out the same bits."""
    pipeline.save_pretrained(tmp_path)
    loaded = WorldModelPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    frames, actions = episode[0][:, :9], episode[1][:, :16]
    one, two = (p(frames, actions, generator=seeded(), sampler=Sampler(3)) for p in (pipeline, loaded))
    assert torch.equal(one.frames, two.frames) and torch.equal(one.latents, two.latents)
    assert loaded.trained_on == pipeline.trained_on and loaded.trained_on.action_names == ["steer", "gas", "brake"]


@pytest.mark.parametrize(("context", "kept"), [(1, 1), (5, 5), (6, 5), (9, 9), (21, 21), (33, 33)])
def test_contexts_of_any_length(pipeline, episode, context, kept):
    """Guards lengths that the VAE does not take: of 6 frames the oldest is left out, with its action.

    What is predicted from 6 frames equals what is predicted from the last 5 of them. 21 frames and more are longer
    than the window that the model was trained on.
    """
    frames, actions = episode
    out = pipeline(frames[:, :context], actions[:, : context + 7], generator=seeded(), sampler=Sampler(2))
    assert out.context_frames == kept and out.frames.shape == (1, kept + 8, 3, 64, 64)
    left_out = context - kept
    same = pipeline(
        frames[:, left_out:context], actions[:, left_out : context + 7], generator=seeded(), sampler=Sampler(2)
    )
    assert torch.equal(out.frames, same.frames)
    decoded = pipeline.codec.decode(pipeline.codec.encode(frames[:, left_out:context]))
    torch.testing.assert_close(out.frames[:, :kept], decoded, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("future", [1, 3, 4, 5])
def test_futures_of_any_length(pipeline, episode, future):
    """Guards actions cut off at the time stride: one frame for every action, and they begin the longer rollout.

    Within the last latent step a missing action counts as the last one repeated, so whole steps are compared.
    """
    frames, actions = episode[0][:, :5], episode[1]
    out = pipeline(frames, actions[:, : 4 + future], generator=seeded(), sampler=Sampler(2, **PLAIN)).frames
    longer = pipeline(frames, actions[:, : 4 + 8], generator=seeded(), sampler=Sampler(2, **PLAIN))
    assert out.shape[1] == 5 + future
    whole = 5 + future // 4 * 4
    noise = torch.randn(longer.latents[:, 2:].shape, generator=seeded())[:, : -(-future // 4)]
    short = pipeline(frames, actions[:, : 4 + future], noise=noise, sampler=Sampler(2, **PLAIN)).frames
    torch.testing.assert_close(short[:, :whole], longer.frames[:, :whole], rtol=1e-4, atol=1e-5)


def test_seeds(pipeline, episode):
    """Guards a rollout that ignores its generator: the same seed gives the same bits, another one other frames."""
    frames, actions = episode[0][:, :5], episode[1][:, :12]
    one, same, other = (pipeline(frames, actions, generator=seeded(s), sampler=Sampler(2)).frames for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one[:, 5:], other[:, 5:])
    assert torch.equal(one[:, :5], other[:, :5]), "the context does not depend on the noise"


def test_several_futures_of_one_context(pipeline, episode):
    """Guards futures that share their noise or mix: in one call as in single calls from the same noise."""
    frames, actions = episode[0][:, :5], episode[1][:, :12]
    noise = torch.randn(3, 2, 4, 8, 8, generator=seeded())
    together = pipeline(frames, actions, noise=noise, futures=3, sampler=Sampler(2, **PLAIN)).frames
    for i in range(3):
        alone = pipeline(frames, actions, noise=noise[i, None], sampler=Sampler(2, **PLAIN)).frames
        torch.testing.assert_close(together[i, None], alone, rtol=1e-4, atol=1e-4)
    assert (together[0, 5:] - together[1, 5:]).abs().max() > 1e-3
    with pytest.raises(UserError, match="0 futures cannot be rolled out"):
        pipeline(frames, actions, futures=0)


def test_actions_steer(pipeline, episode):
    """Guards a pipeline that normalises or groups its actions away."""
    frames, actions = episode[0][:, :5], episode[1][:, :12].clone()
    before = pipeline(frames, actions, generator=seeded(), sampler=Sampler(2)).frames
    actions[:, 8:, 0] += 2
    after = pipeline(frames, actions, generator=seeded(), sampler=Sampler(2)).frames
    assert torch.equal(after[:, :9], before[:, :9]) and not torch.equal(after[:, 9:], before[:, 9:])


def test_latents_are_normalised_as_in_training(pipeline, latents, dataset):
    """Guards other statistics than those of training: encoded here, they are the ones read from the latents folder."""
    from videowm.data.latents import Latents, normalised

    stored = Latents.open(latents, "test")
    clip = Dataset(dataset).clip(*(int(part[0]) for part in stored.places()), 33)
    with torch.no_grad():
        here = pipeline.normalise(pipeline.codec.encode(to_float(clip.frames)[None]))
    there = normalised(stored.whole()[0][0], stored.scale)
    torch.testing.assert_close(here[0], there, rtol=0, atol=1e-2)  # stored in half precision
    torch.testing.assert_close(pipeline.denormalise(pipeline.normalise(here)), here)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f, a: (f, a[:, :4]), "4 actions for 5 context frames leave nothing to predict"),
        (lambda f, a: (f, a[:, :, :2]), r"expected \(frames - 1, 3\)"),
        (lambda f, a: (f, torch.where(torch.arange(12)[:, None] == 7, torch.nan, a)), r"action 7 is \[nan, nan, nan\]"),
        (lambda f, a: (f[0], a), "expected .b, f, 3, H, W. and .b, n, a. with the same b"),
        (lambda f, a: (f, a.repeat(2, 1, 1)), "with the same b"),
        (lambda f, a: (f[..., :32], a), r"frames of \(3, 64, 32\).*expected \(3, 64, 64\)"),
        (lambda f, a: (f[:, :, :1], a), r"frames of \(1, 64, 64\)"),
        (lambda f, a: (f * torch.nan, a), "finite numbers from -1 to 1"),
        (lambda f, a: (f[:, :0], a), "a clip of 0 frames"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_does_not_belong_together(pipeline, episode, change, expected):
    """Guards frames and actions that go through in silence, or end in a traceback of a matrix product."""
    frames, actions = change(episode[0][:, :5], episode[1][:, :12])
    with pytest.raises(UserError, match=expected):
        pipeline(frames, actions, generator=seeded())


def test_no_sampling_steps_at_all(pipeline, episode):
    """Guards noise shown as a prediction, which is what zero steps would leave."""
    with pytest.raises(UserError, match="Sampler: steps: 0 is out of range"):
        pipeline(episode[0][:, :5], episode[1][:, :12], sampler=Sampler(0))


def test_noise_of_a_wrong_shape(pipeline, episode):
    """Guards noise that is broadcast: three steps were given where two are to be predicted."""
    with pytest.raises(UserError, match=r"expected \(1, 2, 4, 8, 8\)"):
        pipeline(episode[0][:, :5], episode[1][:, :12], noise=torch.zeros(1, 3, 4, 8, 8))


@pytest.mark.parametrize("damage", ["no record", "a VAE run", "another VAE", "none"])
def test_what_cannot_be_opened(world_run, vae_run, tmp_path, damage):
    """Guards an unfinished run, a run of another task, and a folder whose VAE was exchanged; an intact copy opens."""
    run = shutil.copytree(world_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    if damage == "none":
        assert WorldModelPipeline.open(run).trained_on.window == 5
        return
    if damage == "no record":
        (run / "record.json").unlink()
        expected = "no finished world model"
    elif damage == "a VAE run":
        run, expected = vae_run, "no finished world model"
    else:
        pipeline = WorldModelPipeline.open(run)
        next(pipeline.vae.parameters()).data += 0.01
        pipeline.vae.save_pretrained(run / "vae")
        expected = "the autoencoder .*run/vae has the hash .*, but this model was saved with"
    with pytest.raises(UserError, match=expected):
        WorldModelPipeline.open(run)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    """4,096 bytes in the middle, as a bad disk leaves them."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("damage", [cut, zero, Path.unlink], ids=["cut", "zeroed", "missing"])
@pytest.mark.parametrize(
    "name",
    ["model_index.json", "scheduler/scheduler_config.json"]
    + [f"{part}/{file}" for part in ("transformer", "vae") for file in ("config.json", WEIGHTS)],
)
def test_a_half_copied_run(world_run, tmp_path, name, damage):
    """Guards tracebacks, and videos of other weights than those that were trained: each file cut, zeroed or missing.

    One sentence names the file or its folder, from `open` and from diffusers' own loader.
    """
    run = shutil.copytree(world_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    damage(run / name)
    expected = "no finished world model" if name == "model_index.json" and damage is Path.unlink else name.split("/")[0]
    with pytest.raises(UserError, match=expected) as error:
        WorldModelPipeline.open(run)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    with pytest.raises(UserError, match=name.split("/")[0]):
        WorldModelPipeline.from_pretrained(run)


def test_a_damaged_run_in_commands(world_run, dataset, tmp_path, videowm):
    """Guards a damage that `open` refuses and a command does not ask for: exit code 2 and one sentence."""
    run = shutil.copytree(world_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    zero(run / "transformer" / WEIGHTS)
    for command in (["generate", "--from", dataset, "--actions", "left*4"], ["evaluate"]):
        done = videowm(command[0], run, *command[1:])
        assert done.code == 2 and len(done.errors) == 1 and "the transformer" in done.errors[0], done.errors


def test_runs_from_before_the_hash(world_run, tmp_path):
    """Guards old runs that no longer open, and a hash that another default, or a half-precision copy, would change."""
    run = shutil.copytree(world_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    index = json.loads((run / "model_index.json").read_text())
    assert index.pop("transformer_hash") == network_hash(WorldModelPipeline.open(run).transformer)
    (run / "model_index.json").write_text(json.dumps(index))
    assert WorldModelPipeline.open(run).config.transformer_hash is None
    half = WorldModelPipeline.from_pretrained(world_run, torch_dtype=torch.bfloat16)
    assert half.transformer.dtype == torch.bfloat16 and half.config.transformer_hash
    model = WorldModelPipeline.open(run).transformer
    before = network_hash(model)
    model.register_to_config(shortcut=False, local=None)
    assert network_hash(model) == before
    model.register_to_config(local=2)
    assert network_hash(model) != before


def test_saved_files_follow_the_umask(world_run):
    """Guards weights that only their owner can read, as safetensors writes them."""
    modes = {path.stat().st_mode & 0o777 for path in world_run.glob("*/*.safetensors")}
    assert modes == {0o666 & ~UMASK}


def test_a_swapped_scheduler(pipeline, episode, monkeypatch):
    """Guards a scheduler that is silently ignored: another shift is followed, another class or setting refused."""
    frames, actions = episode[0][:, :5], episode[1][:, :8]

    def swapped(scheduler):
        monkeypatch.setattr(pipeline, "scheduler", scheduler)
        return pipeline(frames, actions, generator=seeded(), sampler=Sampler(2)).frames

    before = swapped(FlowMatchEulerDiscreteScheduler(shift=1.0))
    assert not torch.equal(swapped(FlowMatchEulerDiscreteScheduler(shift=4.0)), before)
    with pytest.raises(UserError, match="a DDIMScheduler cannot draw latent steps: give a FlowMatchEuler"):
        swapped(DDIMScheduler())
    with pytest.raises(UserError, match="the scheduler's use_karras_sigmas=True is not followed here"):
        swapped(FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True))


def test_the_folder_says_what_it_was_trained_on(world_run, latents):
    """Guards weights without the numbers that they need: the statistics of the latents are in the model's own file."""
    kept = json.loads((world_run / "transformer/config.json").read_text())["trained_on"]
    index = json.loads((latents / "latents.json").read_text())
    assert kept["latents_mean"] == index["mean"] and kept["action_std"] == index["action_std"]
    assert kept["vae_hash"] == index["vae_hash"] and kept["window"] == 5 and kept["fps"] == 12.5


def test_a_stream_gives_the_frames_of_a_call(pipeline, episode):
    """Guards a stream that groups actions otherwise, forgets the context or decodes each step as a clip's first.

    Five latent steps lie within the windows of network and decoder, so nothing is left out.
    """
    frames, actions = episode
    k, known, predicted = pipeline.time_stride, 5, 12
    noise = torch.randn(2, predicted // k, 4, 8, 8, generator=seeded(2))
    frames, actions = frames[:, :known].expand(2, -1, -1, -1, -1), actions[:, : known - 1 + predicted].expand(2, -1, -1)
    whole = pipeline(frames, actions, noise=noise, sampler=Sampler(2))
    stream = pipeline.start(frames, actions[:, : known - 1], sampler=Sampler(2))
    steps = [stream.step(actions[:, known - 1 + i * k :][:, :k], noise[:, i, None]) for i in range(predicted // k)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole.frames[:, known:], rtol=1e-4, atol=1e-4)
    assert (steps[0] - frames[:, known - 1 : known]).abs().max() > 0.01


@torch.no_grad()
def test_without_actions_is_what_training_drops(pipeline, episode, monkeypatch):
    """Guards mean actions taken for none: their presence flag is 1, and training's is 0 where it drops the actions."""
    monkeypatch.setattr(pipeline, "trained_on", replace(pipeline.trained_on, drop_actions=0.1))
    frames, actions = episode[0][:, :5], episode[1][:, :12]
    noise, k = torch.randn(1, 2, 4, 8, 8, generator=seeded(2)), pipeline.time_stride
    none = pipeline(frames, None, horizon=8, noise=noise, sampler=Sampler(2))
    dropped = drop_actions(pipeline.group(actions), torch.tensor([True]))
    context = pipeline.normalise(pipeline.codec.encode(frames))
    expected = rollout(pipeline.transformer, context, dropped, noise, sampler=Sampler(2), window=5)
    torch.testing.assert_close(none.latents[:, 2:], expected, rtol=1e-4, atol=1e-5)
    mean = torch.tensor(pipeline.trained_on.action_mean).expand(1, 12, -1)
    assert (pipeline(frames, mean, noise=noise, sampler=Sampler(2)).latents - none.latents).abs().max() > 1e-3
    stream = pipeline.start(frames, sampler=Sampler(2))
    steps = [stream.step(None, noise[:, i, None]) for i in range(8 // k)]
    torch.testing.assert_close(torch.cat(steps, dim=1), none.frames[:, 5:], rtol=1e-4, atol=1e-4)


def test_without_actions_needs_a_model_that_went_without(pipeline, episode):
    """Guards several frames of context without actions that silently get zeros, which are actions."""
    assert not pipeline.trained_on.drop_actions
    with pytest.raises(UserError, match="horizon None without actions predicts nothing"):
        pipeline(episode[0][:, :5], None)
    for call in (lambda f: pipeline(f, None, horizon=4), pipeline.start, lambda f: pipeline.start(f[:, :1]).step(None)):
        with pytest.raises(UserError, match="was never trained without actions: give the actions"):
            call(episode[0][:, :5])


def test_a_stream_does_not_grow(pipeline, episode):
    """Guards memory that a player fills: after eight steps every tensor that it holds has its size still."""
    stream, actions = pipeline.start(episode[0][:, :1], sampler=Sampler(1), generator=seeded()), torch.zeros(1, 4, 3)

    def held() -> list[torch.Size]:
        cache = stream.stream.cache
        return [x.shape for x in (*cache.keys, *cache.values, *stream.decoder.held, stream.last)]

    for _ in range(8):
        out = stream.step(actions)
    before = held()
    for _ in range(32):
        out = stream.step(actions)
    assert held() == before and out.shape == (1, 4, 3, 64, 64) and out.isfinite().all()


def test_a_row_of_a_stream_begins_anew(pipeline, episode):
    """Guards an environment that goes on from another's frames: the row is a stream of its own, the other goes on."""
    frames, actions = (part.expand(2, *part.shape[1:]) for part in (episode[0][:, :9], episode[1][:, :40]))
    noise = torch.randn(7, 2, 1, 4, 8, 8, generator=seeded(3))
    sampler = Sampler(2, context_level=0.0)
    stream, plain = (pipeline.start(frames[:, :5], actions[:, :4], sampler=sampler) for _ in range(2))
    out = []
    for i, drawn in enumerate(noise):
        if i == 3:
            stream.reset([1], frames[1:, 4:9], actions[1:, 4:8])
            alone = pipeline.start(frames[1:, 4:9], actions[1:, 4:8], sampler=sampler)
        action = actions[:, 8 + 4 * i : 12 + 4 * i]
        out.append((stream.step(action, drawn), plain.step(action, drawn)))
        if i >= 3:
            torch.testing.assert_close(out[-1][0][1:], alone.step(action[1:], drawn[1:]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(out[-1][0][0], out[-1][1][0], rtol=1e-4, atol=1e-4)
    assert (out[3][0][1] - out[3][1][1]).abs().max() > 0.01
    with pytest.raises(UserError, match="2 actions were given between 1 frames"):
        stream.reset([0], frames[:1, :1], actions[:1, :2])


def test_what_a_stream_refuses(pipeline, episode):
    """Guards a shape that broadcasts to something nobody asked for."""
    stream = pipeline.start(episode[0][:, :1], futures=2)
    for actions in (torch.zeros(2, 3, 3), torch.zeros(1, 4, 3)):
        with pytest.raises(UserError, match=r"expected \(2, 4, a\): one a frame"):
            stream.step(actions)
    with pytest.raises(UserError, match="action 1 is"):
        stream.step(torch.zeros(2, 4, 3).index_fill(1, torch.tensor([1]), float("nan")))
    with pytest.raises(UserError, match="2 actions were given between 4 frames, expected 3"):
        pipeline.start(episode[0][:, :4], episode[1][:, :2])


def test_guidance_needs_a_model_that_went_without(pipeline, episode, monkeypatch):
    """Guards a picture that looks like a result: on an H100 such guidance took the Fréchet distance from 0.4 to 5.7."""
    frames, actions = episode
    monkeypatch.setattr(pipeline, "trained_on", replace(pipeline.trained_on, drop_actions=0.0))
    for call in (
        lambda s: pipeline(frames[:, :5], actions[:, :8], sampler=s),
        lambda s: pipeline.start(frames[:, :1], sampler=s),
    ):
        with pytest.raises(UserError, match="action guidance 2 needs a model that was trained without actions as well"):
            call(Sampler(1, action_guidance=2.0))
