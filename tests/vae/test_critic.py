"""The adversarial term: who learns from what, and that nothing of it is there unless asked for."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from videowm import config as configuration
from videowm.types import UserError
from videowm.vae.critic import (
    QUIET,
    AdversarialConfig,
    Critic,
    adversarial_loss,
    balance,
    critic_loss,
    with_critic,
)

VAE = ["train.steps=4", "train.save_every=1", "train.keep=9", "train.log_every=1", "train.clip=0", "train.lr=1e-3"]
CRITIC = ["loss.adversarial.weight=0.5", "loss.adversarial.start=0.5", "loss.adversarial.width=8"]


@pytest.fixture
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Decoded frames, of which a gradient is wanted, and true ones."""
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(2, 5, 3, 16, 16, generator=generator) * 2 - 1
    return (true + 0.3 * torch.randn(true.shape, generator=generator)).requires_grad_(), true


class Mean(torch.nn.Module):
    """A critic whose opinion is known: the mean colour, times a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.gain * frames.mean(dim=(1, 2, 3, 4)).view(-1, 1, 1, 1)


def test_hinge_by_hand():
    """Guards signs: opinions of 0.5 on the truth and -2, -0.5 on two decoded clips, so 0.5 + (0 + 0.5) / 2."""
    decoded = torch.stack([torch.full((5, 3, 8, 8), value) for value in (-2.0, -0.5)])
    assert critic_loss(Mean(), decoded, torch.full((2, 5, 3, 8, 8), 0.5)).item() == pytest.approx(0.75)
    assert adversarial_loss(Mean(), decoded).tolist() == pytest.approx([2, 0.5])


def test_who_learns_from_what(clips):
    """Guards a critic that learns to be fooled, or a decoder taught by the critic's own loss: gradients of one sum.

    Those of the critic are those of its loss alone, those of the decoded frames those of the other two terms.
    """
    torch.manual_seed(0)
    critic, (decoded, true) = Critic(8), clips
    loss = (decoded - true).square().mean()
    total, terms = with_critic(critic, decoded, true, loss, 0.5)
    total.backward(retain_graph=True)
    alone = torch.autograd.grad(critic_loss(critic, decoded, true), tuple(critic.parameters()))
    for parameter, gradient in zip(critic.parameters(), alone, strict=True):
        torch.testing.assert_close(parameter.grad, QUIET * gradient)
    false = adversarial_loss(critic, decoded)
    pulls = [torch.autograd.grad(x, decoded, retain_graph=True)[0] for x in (loss, false.mean())]
    factor = balance(loss, false, decoded).view(2, 1, 1, 1, 1)
    for mine, theirs in zip(factor * pulls[1], pulls[0], strict=True):
        assert mine.norm().item() == pytest.approx(theirs.norm().item(), rel=1e-3)
    torch.testing.assert_close(decoded.grad, pulls[0] + 0.5 * factor * pulls[1])
    assert terms["adversarial"].item() == pytest.approx(false.mean().item())
    assert max(gradient.abs().max() for gradient in alone) > 0 and factor.grad_fn is None


def test_patches(clips):
    """Guards an opinion about the whole clip, or none about small frames: one for each 8x8 patch of every frame."""
    assert Critic(8)(clips[1]).shape == (2, 5, 2, 2) and Critic(8)(clips[1][:, :1]).shape == (2, 1, 2, 2)
    for wrong in ({"weight": -1.0}, {"start": 1.5}, {"width": 12}, {"rate": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            configuration.check(AdversarialConfig(**wrong))


@pytest.fixture(scope="module")
def train_vae(vae_run):
    """Train the session's tiny autoencoder with other settings."""
    from videowm.train.loop import launch

    return lambda out, *overrides: launch(vae_run / "config.yaml", [f"out={out}", *VAE, *overrides]).to_json()


@pytest.fixture(scope="module")
def judged(train_vae, tmp_path_factory) -> Path:
    """Four steps with a critic, to which the autoencoder listens from the third on."""
    out = tmp_path_factory.mktemp("judged") / "vae"
    train_vae(out, *CRITIC)
    return out


def model_at(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step-{step:08d}/model.safetensors")


def test_the_autoencoder_listens_from_its_start_on(judged, train_vae, tmp_path):
    """Guards a critic that leaks into runs, or steps, that do not ask for it, and one that nobody hears.

    Nothing is clipped, so the first two steps have the bits of a run without a critic, and later ones have not.
    """
    record = train_vae(tmp_path / "plain")
    for step in (2, 3):
        plain, other = model_at(tmp_path / "plain", step), model_at(judged, step)
        assert not [name for name in plain if not name.startswith("vae.")]
        assert all(torch.equal(value, other[name]) for name, value in plain.items()) is (step == 2)
    rows = [json.loads(line) for line in (judged / "metrics.jsonl").read_text().splitlines()]
    assert [("critic" in row, "adversarial" in row) for row in rows[:4]] == [(True, False)] * 2 + [(True, True)] * 2
    assert json.loads((judged / "record.json").read_text())["params"] == record["params"]
    exported = [{path.name for path in (run / "vae").iterdir()} for run in (judged, tmp_path / "plain")]
    assert exported[0] == exported[1]


def test_the_critic_learns_at_its_own_rate(judged):
    """Guards the second group of the optimiser: AdamW's first step is the learning rate, here a tenth of it.

    That step's rate is in the log; of the autoencoder's weights most move by the whole of it.
    """
    first, second = model_at(judged, 1), model_at(judged, 2)
    rate = json.loads((judged / "metrics.jsonl").read_text().splitlines()[1])["lr"]
    moved = {name: (second[name] - first[name]).abs().median() / rate for name in second if name.endswith("weight")}
    assert all(0.03 < value <= 0.11 for name, value in moved.items() if name.startswith("critic.layers.0"))
    assert any(value > 0.3 for name, value in moved.items() if name.startswith("vae."))


def test_a_resume_with_a_critic(judged, train_vae, tmp_path):
    """Guards a critic, or its moments, that a checkpoint forgets: resumed after step 1, all files of step 4 agree."""
    out = shutil.copytree(judged, tmp_path / "vae")
    (out / "record.json").unlink()
    for step in (2, 3, 4):
        shutil.rmtree(out / f"checkpoints/step-{step:08d}")
    train_vae(out, *CRITIC)
    for name in ("model", "optimizer"):
        files = [run / f"checkpoints/step-00000004/{name}.safetensors" for run in (out, judged)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert any(name.startswith("critic.") for name in model_at(out, 4))


def test_a_split_batch_is_the_same(clips):
    """Guards a weight of the critic that depends on how many clips a process sees: each alone gives the same factor.

    The second clip is closer to the truth, so the two factors differ and one for both would not do.
    """
    torch.manual_seed(0)
    critic, (decoded, true) = Critic(8), clips
    near = torch.stack([decoded[0], true[1].lerp(decoded[1], 0.5)])

    def factors(part: slice) -> torch.Tensor:
        seen = near[part].detach().requires_grad_()
        return balance((seen - true[part]).square().mean(), adversarial_loss(critic, seen), seen)

    whole = factors(slice(0, 2))
    torch.testing.assert_close(whole, torch.cat([factors(slice(i, i + 1)) for i in range(2)]), rtol=1e-3, atol=0)
    assert abs(whole[0] / whole[1] - 1) > 0.2


def test_lpips_that_is_missing(train_vae, tmp_path):
    """Guards hours of training that end in a traceback, or without the term: the package is not here."""
    with pytest.raises(UserError, match="LPIPS cannot be computed here .*pip install lpips"):
        train_vae(tmp_path / "vae", "loss.lpips=0.1")
    assert not (tmp_path / "vae").exists()


class StandIn(torch.nn.Module):
    """What the package's LPIPS is to its caller: four times the squared difference of each pair."""

    def __init__(self, net: str, *, verbose: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3, 1, 1), 2.0))

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        assert one.shape == other.shape and one.ndim == 4
        return (self.weight * (one - other)).square().mean(dim=(1, 2, 3), keepdim=True)


def test_lpips_of_the_users_own(train_vae, tmp_path, monkeypatch):
    """Guards the term's call and its frozen network; with a stand-in, since the package's weights need a download.

    So this says nothing about LPIPS itself.
    """
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=StandIn))
    train_vae(tmp_path / "vae", "loss.log=false", "loss.l1=0.1", "loss.kl=1e-3", "loss.lpips=0.5",
              "train.steps=1")  # fmt: skip
    row = json.loads((tmp_path / "vae/metrics.jsonl").read_text().splitlines()[0])
    assert row["lpips"] == pytest.approx(4 * row["mse"], rel=1e-4)
    plain = row["mse"] + 0.1 * row["l1"] + 1e-3 * row["kl"]
    assert row["loss"] == pytest.approx(plain + 0.5 * row["lpips"], rel=1e-3)
    assert not [name for name in model_at(tmp_path / "vae", 1) if not name.startswith("vae.")]


def test_a_run_from_before_goes_on(vae_run, capsys, tmp_path):
    """Guards runs whose configuration says nothing of a critic: they are still themselves, and finished."""
    from videowm.train.loop import launch

    out = shutil.copytree(vae_run, tmp_path / "vae")
    config = yaml.safe_load((out / "config.yaml").read_text())
    del config["loss"]["adversarial"], config["loss"]["lpips"]
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    launch(vae_run / "config.yaml", [f"out={out}"])
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="another run: loss.adversarial.weight is 0.0 there and 0.5 here"):
        launch(vae_run / "config.yaml", [f"out={out}", "loss.adversarial.weight=0.5"])
