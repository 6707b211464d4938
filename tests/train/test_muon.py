"""Muon against PyTorch's own, beside AdamW, guarded, and resumed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from videowm.dit import DiT
from videowm.train.config import TrainConfig
from videowm.train.muon import Muon, orthogonal, orthogonal_on_cpu
from videowm.train.optim import Guard, make_optimizer
from videowm.types import UserError

SHAPES = [(8, 8), (24, 8), (8, 32), (8, 8)]


def pair(count: int = 1) -> list[list[torch.nn.Parameter]]:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in SHAPES]
    return [[torch.nn.Parameter(w.clone()) for w in start] for _ in range(count)]


def test_like_torch():
    """Guards momentum, the scale by shape and the decay: five steps of torch.optim.Muon, matrix by matrix."""
    ours, theirs = pair(2)
    optimizer = Muon([{"params": ours, "orthogonal": True}], lr=0.02, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    for a, b, start in zip(ours, theirs, *pair(), strict=True):
        assert torch.allclose(a, b, atol=2e-3) and (a - start).abs().max() > 0.02


def test_orthogonal():
    """Guards the iteration: singular values end near 1, wide and tall, from values that span a factor 20."""
    torch.manual_seed(0)
    for shape in ((2, 16, 16), (2, 48, 16), (2, 16, 48)):
        u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
        values = torch.linalg.svdvals(orthogonal(u * torch.linspace(0.05, 1, 16) @ v).float())
        assert values.min() > 0.6 and values.max() < 1.3


def test_orthogonal_on_a_cpu():
    """Guards the products of polynomials: as step by step, of one matrix and of several; a zero matrix stays one."""
    torch.manual_seed(0)
    for shape in ((2, 16, 16), (2, 24, 16), (1, 96, 16), (3, 16, 48)):
        matrices = torch.randn(shape) * torch.logspace(-3, 3, shape[0])[:, None, None]
        expected, found = orthogonal(matrices).float(), orthogonal_on_cpu(matrices.bfloat16()).float()
        assert (found - expected).norm() < 0.06 * expected.norm()
    assert not orthogonal_on_cpu(torch.zeros(2, 8, 32, dtype=torch.bfloat16)).any()


def test_an_update_that_is_not_finite_is_left_out():
    """Guards weights and momentum of both halves after a gradient that is not a number, also where it is the first."""
    model = DiT(depth=1, channels=4, height=4, width=4, actions=3, hidden=64)
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon"))
    guard = Guard(optimizer, torch.device("cpu"))
    for bad_at in (0, 2):
        for step in range(bad_at + 1):
            before = [p.detach().clone() for p in model.parameters()]
            held = [s["momentum_buffer"].clone() for s in optimizer.state.values() if "momentum_buffer" in s]
            value = float("nan") if step == bad_at else 0.1 * (step + 1)
            for p in model.parameters():
                p.grad = torch.full_like(p, value)
            guard.see(torch.tensor(value))
            optimizer.step()
            same = [torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]
            assert all(same) if step == bad_at else not any(same)
        now = [s["momentum_buffer"] for s in optimizer.state.values() if "momentum_buffer" in s]
        assert all(map(torch.equal, now, held)) if held else not any(m.any() for m in now)
        guard = Guard(optimizer, torch.device("cpu"))


def test_matrices_by_muon_the_rest_by_adamw():
    """Guards embeddings, the output or gains that are orthogonalised, and a network without a width taken silently."""
    model = DiT(depth=2, channels=4, height=4, width=4, actions=3, hidden=64)
    groups = make_optimizer(model, TrainConfig(optimizer="muon")).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {names[id(p)] for g in groups if g["orthogonal"] for p in g["params"]}
    assert {"blocks.0.up.weight", "modulation.weight"} <= by_muon and len(by_muon) == 2 * 4 + 3
    assert sum(len(g["params"]) for g in groups) == len(names)
    with pytest.raises(UserError, match="for world models"):
        make_optimizer(torch.nn.Linear(2, 2), TrainConfig(optimizer="muon"))


def test_resumes_to_the_bit(train_world, same, tmp_path):
    """Guards momentum that a checkpoint forgets: 4 steps under µP = 2 steps, killed, 2 more. Its time is logged."""
    settings = ("train.optimizer=muon", "train.parametrisation=mup", "train.save_every=1", "train.keep=9")
    whole = tmp_path / "whole"
    train_world(whole, *settings)
    halved = shutil.copytree(whole, tmp_path / "halved")
    (halved / "record.json").unlink()
    for step in (3, 4):
        shutil.rmtree(halved / "checkpoints" / f"step-{step:08d}")
    train_world(halved, *settings)
    same(whole, halved)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert 0 < rows[3]["muon"] < 1
