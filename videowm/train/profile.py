"""Where the time of a training step goes: a trace, and a table by kernel family with the FLOP/s reached.

On a GPU the kernels are timed, on a CPU the operators (their own time, without that of the operators they call).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from videowm.files import atomic, write_json
from videowm.train.meter import WARMUP, Meter

STEPS = 10  # recorded
FIRST = WARMUP + 2  # steps of a call before that
Row = tuple[str, float, int]  # name, seconds, how often

# The first pattern that a kernel's or operator's name matches tells its family; the names are those of cuBLAS, CUTLASS,
# cuDNN, FlashAttention and Inductor. On a CPU, batched products (`bmm`) are those of attention: `Linear` uses `mm`.
FAMILIES = {
    "optimiser": r"adam|multi_tensor_apply|_foreach_",
    "elementwise": r"^triton_(poi|per|red|for)_",  # whatever operators Inductor fused into one, it names them all
    "attention": r"flash|fmha|flex|attention|sdpa|attn|aten::(bmm|baddbmm|_?softmax|_softmax_backward_data)$",
    "matrix": r"gemm|gemv|nvjet|cutlass|cublas|xmma|splitk|conv(?!ert)|^triton_tem|aten::(mm|addmm|linear|matmul)$",
    "copies": r"memcpy|memset|copy_kernel|CatArray|aten::(copy_|_to_copy|to|cat|clone|contiguous)$",
    "other": r"nccl|aten::(empty|view|reshape|as_strided|expand|transpose|permute|detach|select|slice|unsqueeze|t$)",
}
# What is elementwise of the rest; what is then left is other.
REST = r"triton_|modulate|rotate|elementwise|reduce|norm|softmax|gelu|distribution|index|aten::"
NAMES = {
    "matrix": "matrix products", "attention": "attention", "elementwise": "norms and elementwise",
    "optimiser": "optimiser, clipping, average", "copies": "copies and casts", "other": "other",
}  # fmt: skip


class Profiler:
    """Records some steps of a run once they have become steady; it changes nothing in what the run computes.

    Args:
        flops: of a step of the global batch by family, shared by `processes`; recomputed activations are not in it.
        meter: of the run; its clock leaves out checkpoints.
    """

    def __init__(self, out: Path, flops: Mapping[str, float], device: torch.device, processes: int, meter: Meter):
        self.folder, self.device, self.meter = out / "profile", device, meter
        self.flops = {family: value / processes for family, value in flops.items()}
        on_gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
        self.profile = torch.profiler.profile(activities=[ProfilerActivity.CPU, *on_gpu])
        self.began: float | None = None

    @property
    def edge(self) -> bool:
        """Whether host and device must meet at the end of the step in work: the recording begins or ends there."""
        return self.meter.done + 1 in (FIRST, FIRST + STEPS)

    def step(self, *, last: bool) -> str | None:
        """A step ended, the run's last one maybe; returns what is to be said when the recording is over."""
        done = self.meter.done
        if done == WARMUP:
            self.profile.prepare_trace()  # two steps ahead: the first steps of a tracer are slow
        if last and done <= FIRST:
            return f"nothing profiled: {done} steps were left and the first {FIRST} are not steady, give more steps"
        if done == FIRST:
            self.profile.start_trace()
            self.began = self.meter.whole.seconds
        elif done == FIRST + STEPS or (last and done < FIRST + STEPS):
            self.profile.stop_trace()
            return self.write(done - FIRST, self.meter.whole.seconds - self.began)
        return None

    def write(self, steps: int, seconds: float) -> str:
        """trace.json.gz and kernels.json of the recorded steps; returns the table."""
        with atomic(self.folder / "trace.json.gz") as aside:
            self.profile.export_chrome_trace(str(aside))
        report = summary(rows(self.profile, self.device), steps, seconds, self.flops)
        write_json(self.folder / "kernels.json", {"device": self.device.type, **report})
        return f"{table(report)}\nthe trace is {self.folder / 'trace.json.gz'} (open it in ui.perfetto.dev)"


def rows(profile: torch.profiler.profile, device: torch.device) -> list[Row]:
    """The recorded kernels of the GPU, or operators of the CPU, by name."""
    events = [event for event in profile.key_averages() if not event.is_user_annotation]
    if device.type == "cuda":
        kernels = [event for event in events if event.device_type == DeviceType.CUDA]
        return [(event.key, event.self_device_time_total / 1e6, event.count) for event in kernels]
    operators = [event for event in events if event.device_type == DeviceType.CPU]
    return [(event.key, event.self_cpu_time_total / 1e6, event.count) for event in operators]


def family(name: str) -> str:
    """The family of a kernel or operator."""
    found = (family for family, pattern in FAMILIES.items() if re.search(pattern, name, re.IGNORECASE))
    return next(found, "elementwise" if re.search(REST, name, re.IGNORECASE) else "other")


def summary(found: Iterable[Row], steps: int, seconds: float, flops: Mapping[str, float]) -> dict[str, Any]:
    """What `steps` steps of together `seconds` consist of, a step: milliseconds, share and count of every family,
    TFLOP/s where `flops` counts it, and the part of the step that all of them explain."""
    found = sorted(found, key=lambda row: -row[1])
    spent = sum(row[1] for row in found)
    families = []
    for name in NAMES:
        own = [row for row in found if family(row[0]) == name]
        time = sum(row[1] for row in own)
        reached = flops[name] * steps / time / 1e12 if name in flops and time else None
        families.append({"family": name, "ms": 1e3 * time / steps, "share": time / spent if spent else 0.0,
                         "count": sum(row[2] for row in own) / steps, "tflops": reached})  # fmt: skip
    kernels = [{"name": row[0], "family": family(row[0]), "ms": 1e3 * row[1] / steps, "count": row[2] / steps}
               for row in found]  # fmt: skip
    return {"steps": steps, "step_ms": 1e3 * seconds / steps, "explained": spent / seconds, "families": families,
            "kernels": kernels}  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """The families for the terminal."""
    lines = [f"{'of a step':<30}{'ms':>10}{'share':>9}{'count':>9}{'TFLOP/s':>10}"]
    for row in report["families"]:
        name, reached = NAMES[row["family"]], "" if row["tflops"] is None else f"{row['tflops']:.4g}"
        lines.append(f"{name:<30}{row['ms']:>10.3f}{row['share']:>9.1%}{row['count']:>9.1f}{reached:>10}")
    steps = f"{report['steps']} steps of {report['step_ms']:.3f} ms"
    return "\n".join([*lines, f"{steps}, of which these explain {report['explained']:.1%}"])
