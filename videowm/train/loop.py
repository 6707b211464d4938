"""The only training loop: data, forward, backward, step, log, save, evaluate, export.

What a step computes is a function of (seed, step, sample): the batch, the noise and the dropouts. So resume is the
same command again, bit-exact on a CPU, whatever the number of workers, and processes share a global batch by slots.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from videowm import config as configuration
from videowm.files import finite, share, write_json
from videowm.record import RunRecord
from videowm.train import checkpoint, device, kept, minutes, optim, registry, trunk
from videowm.train.ahead import ahead
from videowm.train.config import DIVERGED, FREE, TrainConfig
from videowm.train.directory import check_free, finished, prepare_directory
from videowm.train.gate import cut_short
from videowm.train.lock import RunLock
from videowm.train.log import Log
from videowm.train.meter import Meter, Span, in_words
from videowm.train.muon import Muon
from videowm.train.profile import Profiler
from videowm.train.stop import StopOnSignal, leave_signals_to_the_trainer
from videowm.train.task import Draws, Items, Task, loaded
from videowm.types import UserError

PATHS = frozenset({"latents", "data"})  # where data lie; what they are is in the record's hashes
WAIT = 3600  # s for a batch from a loading process, which may have to decode whole videos; then it counts as dead


def train(
    task: Task, config: TrainConfig, out: Path, resolved: dict[str, Any], *, profiled: bool = False,
    measured: bool = False,
) -> RunRecord | None:  # fmt: skip
    """Train `task` in the run directory `out`, going on where an earlier call stopped.

    Args:
        resolved: the whole configuration of the run as a plain mapping; `config` is its part "train".
        profiled: record some steps as a trace.
        measured: how many steps fit into `config.minutes` is found out first.

    Returns:
        the record of the finished run, None in every process but the first.

    Raises:
        UserError: the configuration cannot be trained, or the directory holds another run.
    """
    check(task, config, measured=measured)
    if record := finished(out, config, resolved):
        return record
    config = dataclasses.replace(config, keep_at=sorted({*config.keep_at, *trunk.kept_before(out)}),
                                 precision=device.chosen_precision(config))  # fmt: skip
    resolved = resolved | {"train": resolved["train"] | settled(config)}
    origin = None
    if config.start is not None and checkpoint.latest(out / "checkpoints") is None:
        origin = trunk.origin(config.start, resolved, optim.cooldown_from(config.steps, config.cooldown))
    run = Run(task, config, out, device.make_accelerator(config, out))
    found = ""
    if measured:
        resolved, found = measure(run)
    run.plan()
    with alone(run, resolved):
        if record := finished(out, run.config, resolved):  # by the process that had the lock until now
            return record
        run.accelerator.wait_for_everyone()  # all have looked: from here on there may be a record of this call's own
        run.resume(origin)
        record = carry_out(run, resolved, found, profiled=profiled)
    run.accelerator.wait_for_everyone()
    run.accelerator.state.destroy_process_group()
    if record:
        print(in_words(record))
    return record


def check(task: Task, config: TrainConfig, *, measured: bool) -> None:
    """Refuse a configuration that cannot be trained; of a run that is `measured` the number of steps is not known yet.

    Raises:
        UserError: the sentence says what cannot be.
    """
    if "rule" in (config.batch, config.lr):
        raise UserError(
            f"the rule gives train.batch and train.lr to world models, not to task {task.name}: give numbers"
        )
    if not measured:
        check_kept(config)
    device.check_launcher(config)


def settled(config: TrainConfig) -> dict[str, Any]:
    """What this machine and earlier calls decide of a configuration."""
    return {"keep_at": config.keep_at, "precision": config.precision}


def measure(run: Run) -> tuple[dict[str, Any], str]:
    """Give a run the steps that fit into its minutes; its whole configuration then, and a line that says so.

    Raises:
        UserError: no time is left for a step, or a checkpoint that is to be kept lies beyond the steps.
    """
    steps, rate = minutes.measure(run)
    found = f"train.minutes {run.config.minutes:g}: {steps:,} steps at {rate:.3g} a second"
    run.task.set_steps(steps)
    run.config = dataclasses.replace(run.task.config.train, **settled(run.config))
    check_kept(run.config)
    return configuration.to_dict(run.task.config) | {"train": configuration.to_dict(run.config)}, found


@contextmanager
def alone(run: Run, resolved: dict[str, Any]) -> Iterator[None]:
    """The run directory, made or found to be this run's, and locked within (by the main process)."""
    lock = None
    if run.accelerator.is_main_process:
        prepare_directory(run.out, resolved)
        lock = RunLock(run.out)
    try:
        run.accelerator.wait_for_everyone()
        yield
    finally:
        if lock is not None:
            lock.release()


def carry_out(run: Run, resolved: dict[str, Any], found: str, *, profiled: bool) -> RunRecord | None:
    """The steps still to do, logged, and the end of the run; `found` is a line to be logged first."""
    task, main = run.task, run.accelerator.is_main_process
    log = Log(run.accelerator, run.out, steps=run.config.steps, first=run.step, name=task.name, config=resolved,
              trackers=run.config.trackers)  # fmt: skip
    if found:
        log.say(found)
    profiler = None
    if profiled and main:
        profiler = Profiler(run.out, task.step_flops, run.accelerator.device, run.accelerator.num_processes, run.meter)
    try:
        with StopOnSignal(saves=main) as stop:
            learn(run, run.config, log, profiler, stop)
        return run.finish(log, config_hash(resolved)) if main else None
    finally:
        log.close()


def check_kept(config: TrainConfig) -> None:
    """Refuse checkpoints that a run would never reach.

    Raises:
        UserError: a step of `keep_at` lies beyond the run.
    """
    if late := [step for step in config.keep_at if step > config.steps]:
        raise UserError(f"train.keep_at {late} lies beyond the run's {config.steps} steps: give steps of the run")


def config_hash(resolved: dict[str, Any]) -> str:
    """Hash (16 digits) of what a run computes: its configuration without what only executes it, and without paths.

    Of `train.minutes` the number of steps remains, which is a key of its own.
    """
    return configuration.digest(resolved, without=FREE | PATHS | {minutes.MINUTES})


def learn(run: Run, config: TrainConfig, log: Log, profiler: Profiler | None, stop: StopOnSignal) -> None:
    """The steps still to do: forward, backward, step, log, save; the gate and a signal may end them."""
    began, meter = time.perf_counter(), run.meter
    for batch in meter.batches(run.batches()):
        metrics = run.update(batch)
        last, judged = run.step == config.steps, run.step == run.gate_at
        logs = run.step % config.log_every == 0 or last or judged
        ends = stop.signal if stop.saves else None
        saves = run.step % config.save_every == 0 or run.step in config.keep_at or last or bool(ends)
        if logs or saves or (profiler is not None and profiler.edge):
            run.check()
        meter.step()
        if profiler is not None:
            if text := profiler.step(last=last):
                log.say(text)
            meter.leave_out()
        said = run.judge(log) if judged else {}
        run.seconds = run.seconds_before + time.perf_counter() - began
        if logs:
            values = run.means(metrics) | meter.read() | said
            values |= run.shares(values["samples_per_second"])
            log.write(run.step, values)
            log.progress(run.step, values)
        if saves or run.stopped:
            run.task.vouch(run.step)
        if run.stopped:  # before it is saved: a resume that has no record finds the gate still ahead
            return
        if saves:
            run.save()
        if saves or judged:
            meter.leave_out()
        if ends:
            log.say(f"stopped by {ends.name} after step {run.step}, which is saved: the same command goes on")
            raise SystemExit(128 + ends)


class Run:
    """The state of a training run: weights, optimiser, average and the number of finished steps."""

    def __init__(self, task: Task, config: TrainConfig, out: Path, accelerator: Accelerator) -> None:
        self.task, self.config, self.out, self.accelerator = task, config, out, accelerator
        shares = accelerator.num_processes * config.accumulate
        if config.batch % shares:
            raise UserError(
                f"train.batch {config.batch} cannot be split over {accelerator.num_processes} processes x "
                f"{config.accumulate} accumulation steps: use a multiple of {shares}"
            )
        self.share = config.batch // shares
        if config.checkpointing:
            device.recompute_activations(task)
        if config.parametrisation == "mup":
            optim.start_as_mup(task.model)
        optimizer = optim.make_optimizer(task.model, config)
        self.model, self.optimizer = accelerator.prepare(task.model, optimizer)
        self.guard = optim.Guard(self.optimizer.optimizer, accelerator.device)
        if device.compiles(config, task, accelerator.device):
            # Recorded gradients cannot be added up, and processes exchange theirs while they are computed.
            alone = accelerator.num_processes == config.accumulate == 1 and not config.checkpointing
            task.model.compile_blocks(graph=alone)
        task.to(accelerator.device)
        self.meter = Meter(accelerator.device, accelerator.num_processes, config.batch, task.step_tokens,
                           sum(task.step_flops.values()))  # fmt: skip
        self.step, self.seconds, self.seconds_before = 0, 0.0, 0.0
        self.first = 0
        self.began = 0 if config.start is None else config.start.step
        self.stopped = False
        self.average: optim.Average | None = None
        self.gate_at: int | None = None

    def plan(self) -> None:
        """Make what depends on the number of steps, which is known now: the average and the gate."""
        config = self.config
        self.average = optim.Average(self.task.model, config.ema * config.steps) if config.ema else None
        # A branch is judged after the first step of its own: its trunk, which others need, is only warned about.
        self.gate_at = None if config.gate.failing == "off" else max(config.gate.step(config.steps), self.began + 1)

    @property
    def patient(self) -> bool:
        """Whether gradients are checked only where a step is logged or saved: each check waits for the device."""
        return self.accelerator.device.type == "cuda"

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def resume(self, origin: Path | None) -> None:
        """Go on from the newest intact checkpoint, a branch at first from `origin`; where one to be kept is
        missing, go back before it."""
        steps = self.config.steps
        until = min([steps, *kept.missing(self.out, steps, self.config.keep_at)])
        found = checkpoint.latest(self.checkpoints, until) or origin
        if found is None:
            return
        groups, state = checkpoint.load(found)
        self.task.model.load_state_dict(groups["model"])
        checkpoint.load_optimizer(self.optimizer, groups["optimizer"])
        if self.average is not None:
            self.average.values = {k: v.to(self.accelerator.device) for k, v in groups["average"].items()}
        self.step = self.first = state["step"]
        if found != origin:
            self.seconds_before = self.seconds = state["seconds"]
            self.meter.whole = Span(**state.get("measured", {}))

    def save(self) -> None:
        """Write a checkpoint (main process)."""
        if not self.accelerator.is_main_process:
            return
        tensors = {"model": self.task.model.state_dict(), "optimizer": checkpoint.optimizer_tensors(self.optimizer)}
        if self.average is not None:
            tensors["average"] = self.average.values
        state = {"seconds": self.seconds, "measured": dataclasses.asdict(self.meter.whole)}
        checkpoint.save(self.checkpoints, self.step, tensors, state, keep=self.config.keep,
                        keep_at=self.config.keep_at)  # fmt: skip

    def slots(self, micro: int) -> range:
        """This process's slots of the global batch in accumulation step `micro`."""
        first = (self.accelerator.process_index * self.config.accumulate + micro) * self.share
        return range(first, first + self.share)

    def batches(self) -> Iterator[list[dict[str, Tensor]]]:
        """For every step still to do, its accumulation steps' samples."""
        micro = self.config.accumulate
        items = Items(self.task, range(self.step, self.config.steps), [self.slots(m) for m in range(micro)])
        pin = self.accelerator.device.type == "cuda"
        workers = max(self.config.workers, int(pin))
        loader = torch.utils.data.DataLoader(items, batch_size=None, num_workers=workers, pin_memory=pin,
                                             worker_init_fn=leave_signals_to_the_trainer,
                                             timeout=WAIT if workers else 0)  # fmt: skip
        held: list[dict[str, Tensor]] = []
        for samples in loaded(loader) if workers else ahead(loaded(loader)):
            held.append(samples)
            if len(held) == micro:
                yield held
                held = []

    def update(self, batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One optimiser step."""
        config, accelerator = self.config, self.accelerator
        factor = optim.wsd(self.step, config.steps, config.warmup, config.cooldown)
        optim.set_rate(self.optimizer, config.lr * factor)
        totals: dict[str, Tensor] = {}
        for micro, samples in enumerate(batch):
            last = micro == config.accumulate - 1
            draws = Draws(self.task.seed, self.step, self.slots(micro), config.batch, accelerator.device)
            samples = {k: v.to(accelerator.device, non_blocking=True) for k, v in samples.items()}
            with nullcontext() if last else accelerator.no_sync(self.model), accelerator.autocast():
                loss, metrics = self.task.loss(self.model, samples, draws)
            accelerator.backward(loss / config.accumulate)
            for name, value in {"loss": loss, **metrics}.items():
                totals[name] = totals.get(name, 0) + value.detach().float() / config.accumulate
        totals["grad_norm"] = self.clip()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.task.model)
        self.step += 1
        return totals

    def clip(self) -> Tensor:
        """Clip the gradient; there is no update when it is not finite."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf)
        self.guard.see(norm)
        if not self.patient:
            self.check()
        return norm

    def check(self) -> None:
        """Stop a run with a gradient that was not finite; the weights are those from before that step.

        Raises:
            UserError: such a gradient was met.
        """
        if (failed := self.guard.failed()) is not None:
            good, norm = failed
            if self.accelerator.is_main_process and self.out.exists():
                write_json(self.out / DIVERGED, {"step": self.first + good, "lr": self.config.lr})
            raise UserError(
                f"the gradient of step {self.first + good} is not finite ({norm}): lower train.lr "
                f"(now {self.config.lr}) or check the data; the last checkpoint is from before this step"
            )

    def judge(self, log: Log) -> dict[str, Any]:
        """The gate's sentence where it fails; it may stop the run here.

        The model is read in the run's own precision and no random number is drawn: a run that goes on is the same.
        """
        verdict = None
        if self.accelerator.is_main_process:
            self.task.model.eval()
            verdict = self.task.check(self.step)
            self.task.model.train()
        failed = torch.tensor(float(verdict is not None and not verdict.passed), device=self.accelerator.device)
        if not self.accelerator.reduce(failed, reduction="sum"):
            return {}
        self.stopped = self.config.gate.failing == "stop" and not self.config.trunk
        said = "" if verdict is None else verdict.sentence
        log.say(f"{said}; the run is stopped here" if self.stopped else said)
        return {"gate": said}

    def means(self, metrics: dict[str, Tensor]) -> dict[str, float]:
        """Metrics averaged over the processes, and the learning rate."""
        values = {k: float(self.accelerator.reduce(v, reduction="mean")) for k, v in metrics.items()}
        group = self.optimizer.param_groups[0]
        return values | {"lr": group["lr"] / group["scale"]}

    def shares(self, samples_per_second: float | None) -> dict[str, float]:
        """The share of a step's time that Muon's matrices take; no FLOPs of it are counted as the model's."""
        if not isinstance(muon := self.optimizer.optimizer, Muon):
            return {}
        seconds = muon.clock.mean()
        return {} if samples_per_second is None else {"muon": seconds * samples_per_second / self.config.batch}

    def finish(self, log: Log, config_hash: str) -> RunRecord:
        """Export the model, evaluate it (a trunk is for its branches only) and write record.json, last."""
        speed = self.meter.rates(self.meter.whole)
        if device.compiles(self.config, self.task, self.accelerator.device):
            self.task.model.uncompile()  # from here on shapes change
        if self.average is not None:
            self.task.model.load_state_dict(self.average.values)
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # from here on in full precision
        self.task.model.eval()
        metrics = {}
        if not self.config.trunk:
            self.task.export(self.out)
            share(self.out)
            metrics = dict(self.task.evaluate())
            say_unknown_errors(metrics, log)
            if summary := self.task.summary(metrics):
                log.say(summary)
        record = self.record(finite(metrics), speed, config_hash)
        if metrics:
            log.write(self.step, {k: v for k, v in metrics.items() if not isinstance(v, list)})
        record.write(self.out)
        return record

    def record(self, metrics: dict[str, Any], speed: dict[str, float | None], config_hash: str) -> RunRecord:
        """What record.json holds of this run."""
        config, fields = self.config, self.task.record_fields()
        if "flops" in fields:  # `train` is the whole path's, what a run from scratch would have cost
            spent = fields["flops"]["train"] * (config.steps - self.began) // config.steps
            fields["flops"] = fields["flops"] | {"spent": spent}
        record = RunRecord(
            name=self.out.name, role="trunk" if config.trunk else "run", seed=self.task.seed, steps=config.steps,
            trunk=Path(config.start.run).name if config.start else None, batch=config.batch, lr=config.lr,
            wall_seconds=round(self.seconds, 2), device=device.device_name(self.accelerator.device),
            config_hash=config_hash, execution=device.execution(config, self.accelerator, self.out), metrics=metrics,
            **speed, **{"params": {}, **fields},
        )  # fmt: skip
        return cut_short(record, self.step, began=self.began) if self.stopped else record


def say_unknown_errors(metrics: dict[str, Any], log: Log) -> None:
    """Write a line to the log where one held-out episode leaves every standard error unknown."""
    errors = [value for name, value in metrics.items() if name.endswith("_se") and isinstance(value, float)]
    if errors and all(math.isnan(value) for value in errors):
        log.say("one episode is held out, so no standard error is known: hold out two or more to compare models")


def launch(path: Path, overrides: list[str], *, profiled: bool = False) -> RunRecord | None:
    """`videowm train`: read the configuration, build the task it names, train it; returns as `train` does.

    Raises:
        UserError: the configuration cannot be used, or the directory holds another run.
    """
    config, measured = minutes.settle(registry.load(path, overrides), path, overrides)
    known, out = registry.resolved(config), Path(config.out)  # before anything is read or played
    if record := finished(out, known.train, configuration.to_dict(known)):
        return record
    check_free(out, configuration.to_dict(known))
    task = registry.build_task(config)
    return train(task, task.config.train, out, configuration.to_dict(task.config), profiled=profiled,
                 measured=measured)  # fmt: skip
