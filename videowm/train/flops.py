"""Floating-point operations of the transformer, counted exactly (one multiply-add is 2).

The training compute of a run is 3 x the forward pass (forward, and twice that backward) over all processed tokens,
context included, nothing recomputed. Attention counts the pairs that the block-causal mask allows; of a text, which is
read once a clip, all its places count, padding too. A frozen text encoder works once, before training, and is left out.
"""

from __future__ import annotations

from videowm.dit.text import IDS, LAYERS, LETTERS


def block_flops(tokens: int, pairs: int, width: int) -> int:
    """One block's matrices and attention: `tokens` of `width`, `pairs` of (query, key) that are attended."""
    return 24 * tokens * width**2 + 4 * pairs * width


def causal_pairs(steps: int, tokens: int, window: int | None = None) -> int:
    """Query-key pairs of a block-causal clip of `steps` latent steps of `tokens` tokens that see `window` steps."""
    return tokens**2 * sum(min(step, window or steps) for step in range(1, steps + 1))


def dit_forward_families(
    *, windows: list[int | None], width: int, steps: int, tokens: int, patch_values: int, actions: int,
    level_features: int = 256,
) -> dict[str, int]:  # fmt: skip
    """Forward FLOPs of `videowm.dit.DiT` on one clip of `steps` latent steps of `tokens` tokens, a window a block, by
    the kernels that do them: matrix products (by weights) and attention."""
    length = steps * tokens
    modulation = steps * (12 * len(windows) + 4) * width**2
    ends = 2 * (2 * length * patch_values * width)
    condition = 2 * steps * width * (level_features + width + actions + width)
    return {
        "matrix": len(windows) * block_flops(length, 0, width) + modulation + ends + condition,
        "attention": sum(block_flops(0, causal_pairs(steps, tokens, window), width) for window in windows),
    }


def text_forward_families(
    *, into: str, features: int | None, length: int, width: int, depth: int, tokens: int, steps: int
) -> dict[str, int]:
    """Forward FLOPs that a text adds to one clip of `steps` latent steps of `tokens` tokens each."""
    matrix = attention = 0
    if features is None:  # the byte encoder: one-hot rows, then blocks
        features = width // 2
        matrix += 2 * length * LETTERS * (IDS - 1) * features + LAYERS * block_flops(length, 0, features)
        attention += LAYERS * block_flops(0, length**2, features)
    matrix += 2 * length * features * width + 2 * width**2
    if into == "pooled":
        return {"matrix": matrix, "attention": attention}
    matrix += depth * (4 * length * width**2 + 4 * steps * tokens * width**2 + 6 * steps * width**2)
    return {"matrix": matrix, "attention": attention + depth * 4 * steps * tokens * length * width}


def model_families(model, steps: int) -> dict[str, int]:
    """Forward FLOPs of a `DiT` on one clip of `steps` latent steps, by kernel family."""
    config = model.config
    families = dit_forward_families(
        windows=model.windows, width=model.hidden, steps=steps, tokens=model.tokens,
        patch_values=config.channels * config.patch**2, actions=config.actions,
        level_features=model.level_mlp[0].in_features,
    )  # fmt: skip
    if config.text:
        more = text_forward_families(**config.text, width=model.hidden, depth=model.depth, tokens=model.tokens,
                                     steps=steps)  # fmt: skip
        families = {family: flops + more[family] for family, flops in families.items()}
    return families


def model_flops(model, steps: int) -> int:
    """Forward FLOPs of a `DiT` on one clip of `steps` latent steps."""
    return sum(model_families(model, steps).values())


def clip_training_flops(model, steps: int, shortcut: int = 0) -> float:
    """Training FLOPs of one clip: 3 forward passes' worth, and 2 passes more for one of `shortcut` clips."""
    return (3 + (2 / shortcut if shortcut else 0)) * model_flops(model, steps)


def parameters(model) -> dict[str, int]:
    """Parameters of a `DiT` in parts: body (attention, MLP), adaLN (modulation, level), embeddings, and where it has a
    text all that is there for it but modulation."""
    parts = {"body": 0, "adaln": 0, "embed": 0} | ({"text": 0} if model.text_condition is not None else {})
    for name, value in model.named_parameters():
        if "modulation" in name or name.startswith("level_mlp"):
            parts["adaln"] += value.numel()
        elif name.startswith("text_condition.") or ".cross." in name:
            parts["text"] += value.numel()
        elif name.startswith("blocks."):
            parts["body"] += value.numel()
        else:
            parts["embed"] += value.numel()
    return parts


# Dense bf16 peak of the accelerators that people train on, in FLOP/s (vendors' data sheets).
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}


def peak_flops(device_name: str) -> float | None:
    """Peak FLOP/s of a GPU by its name, or None where it is not known, as of a CPU."""
    return next((peak for name, peak in PEAK.items() if name in device_name), None)
