"""The Triton kernels of a GPU, without one."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed: it comes with torch's CUDA build, and takes 1 GB by itself",
)
def test_the_kernels_are_their_formulas(python):
    """Guards a kernel that no machine without a GPU has ever run: Triton's interpreter runs it on small shapes."""
    ended = python("benchmarks/exact.py", "--interpreted", TRITON_INTERPRET="1")
    assert ended.returncode == 0 and "0 of 2 failed" in ended.stdout, ended.stdout + ended.stderr[-2000:]
