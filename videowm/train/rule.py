"""Batch and learning rate of a run from its width and its number of tokens, and from nothing else."""

from __future__ import annotations

import math

from videowm.train.config import Parametrisation, RuleConfig

BASE_WIDTH = 256  # where both parametrisations are the same, and the rule's learning rate holds
# The best learning rate falls as D^-0.0453 where the batch grows with D (video DiTs, arXiv 2411.17470). It agrees with
# D^-0.32 at a fixed batch (arXiv 2409.19913) and Adam's square-root law for a batch that grows as D^0.5: D^-0.07.
RATE_BY_TOKENS = -0.0453
RATE_BY_WIDTH = 3 * -0.1619  # of the standard parametrisation: N^-0.1619 (ibid.), N ~ width^3 on the dial; 0 under µP
BATCH_BY_TOKENS = 0.5  # critical batch: D^0.47 (arXiv 2410.21676), D^0.5 (arXiv 2505.13738)


def horizon(tokens: float, rule: RuleConfig) -> float:
    """`tokens` rounded to the nearest of rule.tokens * 4^i, for neighbouring budgets that are to share a trunk."""
    return rule.tokens * 4.0 ** round(math.log(tokens / rule.tokens, 4))


def batch_by_rule(tokens: float, clip: int, rule: RuleConfig) -> int:
    """Clips of `clip` tokens a step: batch * (D / D0)^0.5 tokens in four binary digits (from 64 on a multiple of 8)."""
    wanted = rule.batch * (tokens / rule.tokens) ** BATCH_BY_TOKENS / clip
    step = 2 ** max(0, math.floor(math.log2(wanted)) - 3)
    return max(1, step * round(wanted / step))


def rate_by_rule(width: int, tokens: float, parametrisation: Parametrisation, rule: RuleConfig) -> float:
    """Learning rate, to four digits; µP needs none of the width."""
    by_width = 1.0 if parametrisation == "mup" else (width / BASE_WIDTH) ** RATE_BY_WIDTH
    return float(f"{rule.lr * by_width * (tokens / rule.tokens) ** RATE_BY_TOKENS:.4g}")
