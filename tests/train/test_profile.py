"""`--profile`: where a step's time goes."""

from __future__ import annotations

import gzip
import json

import pytest

from videowm.train.profile import FIRST, STEPS, family, summary, table

CONFIG = "configs/world/quickstart.yaml"


def test_a_profile_changes_nothing_and_sums_up(videowm, train_world, world_arguments, same, tmp_path):
    """Guards a profile that ends or changes the run, a trace that does not open, and shares of something else.

    The run is two steps longer than what is recorded and saves within it; its weights are those of a run without.
    """
    steps, out = FIRST + STEPS + 2, tmp_path / "profiled"
    options = [f"train.steps={steps}", "train.save_every=7", "train.log_every=5"]
    options += ["train.batch=16"]  # so that operators fill a step, on a busy machine too
    said = videowm("train", CONFIG, "--profile", *world_arguments, *options, f"out={out}")
    train_world(tmp_path / "plain", *options)
    same(out, tmp_path / "plain")
    with gzip.open(out / "profile/trace.json.gz") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert names.count("aten::_fused_adamw_") == 2 * STEPS  # two groups a step
    report = json.loads((out / "profile/kernels.json").read_text())
    families = {row["family"]: row for row in report["families"]}
    assert report["steps"] == STEPS and sum(row["share"] for row in families.values()) == pytest.approx(1)
    assert sum(row["ms"] for row in families.values()) == pytest.approx(report["explained"] * report["step_ms"])
    assert 0.3 < report["explained"] < 1.05
    assert all(families[name]["ms"] > 0 for name in ("matrix", "attention", "elementwise", "optimiser", "copies"))
    assert families["matrix"]["tflops"] > 0 and families["attention"]["tflops"] > 0
    assert table(report) in said.out and {p.name for p in out.glob("profile/*")} == {"trace.json.gz", "kernels.json"}


def test_a_run_that_is_too_short_says_so(videowm, world_arguments, tmp_path):
    """Guards an empty table: four steps are not steady, and the run itself is finished."""
    said = videowm("train", CONFIG, *world_arguments, f"out={tmp_path / 'world'}", "--profile")
    assert "nothing profiled: 4 steps were left" in said.out and said.code == 0
    assert (tmp_path / "world/record.json").exists() and not (tmp_path / "world/profile").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "matrix"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute", "matrix"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32_64x2_tn_align8>", "matrix"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", "matrix"),
        ("triton_tem_fused_mm_7", "matrix"),
        ("triton_tem_fused_flex_attention_0", "attention"),
        ("triton_tem_fused_flex_attention_backward_12", "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits<64>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "attention"),
        ("triton_per_fused__to_copy_add_mul_rms_norm_flex_attention_3", "elementwise"),
        ("triton_poi_fused_gelu_mm_2", "elementwise"),
        ("add_modulate_backward_kernel_0", "elementwise"), ("norm_rotate_kernel", "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::AUnaryFunctor<float>>", "elementwise"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "elementwise"),
        ("void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda>", "copies"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::multi_tensor_apply_kernel<FusedOptimizerTensorListMetadata<4>, FusedAdamMathFunctor>",
         "optimiser"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "other"),
        ("aten::mm", "matrix"), ("aten::bmm", "attention"), ("aten::mul", "elementwise"), ("aten::view", "other"),
        ("aten::mean", "elementwise"), ("aten::_foreach_norm", "optimiser"), ("aten::copy_", "copies"),
    ],
)  # fmt: skip
def test_families_by_name(name, expected):
    """Guards kernels that are counted where they do not belong, by the names that libraries, Inductor and CPUs give."""
    assert family(name) == expected


def test_a_table_by_hand():
    """Guards sums and units: 2 steps of 10 ms, 12 ms of them in 4e9 FLOPs of products, 4 ms in a copy."""
    rows = [("aten::mm", 0.008, 6), ("aten::copy_", 0.004, 2), ("aten::addmm", 0.004, 2)]
    report = summary(rows, 2, 0.020, {"matrix": 4e9, "attention": 1e9})
    matrix, attention, *_ = report["families"]
    assert report["explained"] == pytest.approx(0.8) and report["step_ms"] == pytest.approx(10)
    expected = {"ms": 6.0, "share": 0.75, "count": 4.0, "tflops": 2 * 4e9 / 0.012 / 1e12}
    assert {k: v for k, v in matrix.items() if k != "family"} == pytest.approx(expected)
    assert attention["ms"] == 0 and attention["tflops"] is None
    assert [row["name"] for row in report["kernels"]] == ["aten::mm", "aten::copy_", "aten::addmm"]
