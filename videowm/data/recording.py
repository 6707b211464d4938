"""Record a world into a dataset: seeded, parallel over file groups, continued after an interruption, and mended.

Equal settings give equal bytes whatever the number of workers: every episode has its own random numbers, every file
group is written by one process with one encoder thread.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from videowm import config
from videowm.data.layout import NOTE as NOTE_KEY
from videowm.data.layout import Layout, check_width, fingerprint, finish, write_group
from videowm.data.playing import attempts, game_seed, play_episode
from videowm.files import as_json, leftovers, read_json, write_atomic, write_new, writing
from videowm.limits import Count, Frames, HeldOut, Seed, unfit
from videowm.lock import FolderLock, held
from videowm.parts import WHOLE, Part, exactly_once, forget_parts, refuse_parts
from videowm.types import Episode, UserError
from videowm.worlds import World, open_world

NOTE = "meta/recording.json"
MakeGroups = Callable[[list[int]], None]  # plays and writes the file groups of some numbers
OFTEN_EMPTY = ("arguments", "player")  # not written where they are, so the bytes are as before there were any


@dataclass(frozen=True)
class Recording:
    """The settings that decide every byte of a recorded dataset; kept in meta/recording.json."""

    world: str  # the game
    episodes: Count  # of the whole dataset
    seed: Seed  # episode i draws its random numbers from (seed, i)
    frames: Frames  # at most, of an episode
    frame_skip: Count | None  # physics steps a frame; None in a world that has no such thing
    test_share: HeldOut  # of the episodes, the last ones
    lossless: bool  # whether the video is
    group: Count  # episodes a file group
    arguments: dict[str, Any] = field(default_factory=dict)  # more that the world's constructor took
    player: dict[str, Any] = field(default_factory=dict)  # who played, unless it is the world's driver
    trust: bool = False  # whether a policy that holds code may be loaded; never kept, so nobody else's is trusted

    @classmethod
    def read(cls, root: Path) -> Recording:
        """The settings that the dataset at `root` was recorded with.

        Raises:
            UserError: the dataset was not recorded here, or the file is damaged.
        """
        if not (root / NOTE).exists():
            raise UserError(f"{root} was not recorded here (no {NOTE}): give a dataset of videowm record")
        return config.build(cls, read_json(root / NOTE, "restore it, or record anew"), where=str(root / NOTE))

    def write(self, root: Path) -> None:
        """Write meta/recording.json unless there is one, perhaps another's.

        Settings without arguments give the bytes that they gave before there were any.
        """
        write_new(root / NOTE, as_json({k: value for k, value in self.kept.items() if value or k not in OFTEN_EMPTY}))

    @property
    def kept(self) -> dict[str, Any]:
        """All settings but `trust`."""
        return {key: value for key, value in vars(self).items() if key != "trust"}

    def open(self) -> World:
        """The world, as it was recorded."""
        return open_world(self.world, self.frame_skip, **trusting(self.arguments, trust=self.trust))

    def layout(self, world: World) -> Layout:
        """What the recorded episodes have in common."""
        names = {"action_names": world.action_names, "state_names": world.state_names}
        return Layout(self.world, world.fps, world.size, **names, lossless=self.lossless, group=self.group)

    def game_seeds(self, number: int) -> Iterator[int]:
        """The seeds of the games that episode `number` may be, in the order in which they are tried.

        Games of other players than the driver are others than the driver's.
        """
        return map(game_seed, attempts(self.seed, number, *([1] if self.player else [])))

    @property
    def groups(self) -> range:
        """The numbers of all file groups."""
        return range(-(-self.episodes // self.group))

    def members(self, file_index: int) -> range:
        """The episodes of a file group."""
        return range(file_index * self.group, min((file_index + 1) * self.group, self.episodes))


def record_episodes(
    world: str, out: str | Path, *, episodes: int, seed: int = 0, workers: int = 1, frames: int = 261,
    frame_skip: int | None = None, test_share: float = 0.1, lossless: bool = False, group: int = 10,
    arguments: dict[str, Any] | None = None, trust: bool = False, part: Part = WHOLE,
) -> Path:  # fmt: skip
    """Record `episodes` episodes into the folder `out`, and return it.

    The same call again makes what is missing or damaged, or does nothing. Of several parts, the one that ends last
    finishes the dataset.

    Args:
        world: name of the world.
        out: new folder, or one of the same recording.
        episodes: their number.
        seed: of the recording; episode i draws its random numbers from (seed, i).
        workers: processes; they change no byte.
        frames: at most, of an episode.
        frame_skip: physics steps a frame; None means the world's default.
        test_share: share of the episodes that are held out, the last ones.
        lossless: whether the video keeps every bit.
        group: episodes a file.
        arguments: more of what the world's constructor takes.
        trust: whether a policy that holds code may be loaded.
        part: the file groups that are recorded here; others record theirs, on this host or on another.

    Raises:
        UserError: the world is unknown, a number is out of range, `out` holds something else or cannot be written, or
            another process records into it.
    """
    game, out = open_world(world, frame_skip, **trusting(arguments or {}, trust=trust)), Path(out)
    wanted = {"world": world, "episodes": episodes, "seed": seed, "frames": frames, "frame_skip": game.frame_skip,
              "test_share": test_share, "lossless": lossless, "group": group, "arguments": arguments or {},
              "trust": trust}  # fmt: skip
    settings = config.build(Recording, wanted, where="record")
    check_workers(workers)
    return record_into(out, settings, game, partial(record_groups, settings, out, workers=workers), part)


def record_into(out: Path, settings: Recording, game: World, make: MakeGroups, part: Part = WHOLE) -> Path:
    """Make a dataset whole by what plays and writes its file groups; what is there already stays.

    Args:
        out: new folder, or one of the same recording.
        settings: of the recording.
        game: its world, not yet begun.
        make: plays and writes the file groups of some numbers.
        part: the file groups that are made here.

    Raises:
        UserError: `out` holds something else or cannot be written, or another process records into it.
    """
    layout = settings.layout(game)
    check_width(game.size[1])
    if note := unfit(game.size):
        tqdm.write(f"{out}: {note}")
    with writing(out):
        check_folder(out, settings)
        if (out / "meta/info.json").exists() and not changed_files(out):
            tqdm.write(f"{out} is already recorded: {settings.episodes} episodes of {settings.world}, seed "
                       f"{settings.seed}")  # fmt: skip
            return out
        taken, lock = f"another process is recording into {out}: wait for it, or give another --out", None
        try:
            if part == WHOLE:
                lock = FolderLock(out, taken)
                refuse_parts(out)
                check_folder(out, settings)  # once more: another process may have begun before the lock was free
                record_missing(settings, out, layout, make)
            elif held(out):
                raise UserError(taken)
            else:
                record_part(settings, out, layout, make, part)
        except KeyboardInterrupt:
            kept = sum(len(settings.members(i)) for i in settings.groups if is_whole(out, layout.paths(i)))
            text = f"{kept} of {settings.episodes} episodes are kept in {out}, the same command goes on from there"
            raise KeyboardInterrupt(text) from None
        finally:
            if lock is not None:
                lock.remove()
    return out


def trusting(arguments: dict[str, Any], *, trust: bool) -> dict[str, Any]:
    """A world's arguments with `trust` where it is given; what a file says of it does not count."""
    own = {name: value for name, value in arguments.items() if name != "trust"}
    return own | {"trust": True} if trust else own


def check_workers(workers: int) -> None:
    """Refuse a number of processes that cannot be.

    Raises:
        UserError: the number is below 1.
    """
    if workers < 1:
        raise UserError(f"workers {workers} cannot be used: give the number of processes, 1 or more")


def check_folder(out: Path, settings: Recording) -> None:
    """Refuse a folder that holds something else than a part of this recording.

    Raises:
        UserError: `out` is a file, holds other files, or holds a recording with other settings.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, expected a folder: give another --out")
    if not (out / NOTE).exists():
        other = out.is_dir() and any(path.is_file() and not path.name.startswith(".") for path in out.rglob("*"))
        if other and not (out / NOTE).exists():  # asked again: another part may just have begun
            raise UserError(f"{out} holds something else than a recording: give a new or empty folder")
        return
    present, wanted = Recording.read(out).kept, settings.kept
    differing = [f"{k} {present[k]} there, {v} now" for k, v in wanted.items() if present[k] != v]
    if differing:
        raise UserError(f"{out} was recorded with other settings ({'; '.join(differing)}): give another --out")


def changed_files(out: Path) -> list[str]:
    """The files of a finished recording that are missing or not as they were written."""
    listed = out / "meta/files.json"
    try:
        files = read_json(listed, "")
        return [path for path, file in files.items() if not (out / path).is_file() or fingerprint(out / path) != file]
    except UserError:
        return [listed.relative_to(out).as_posix()]


def is_whole(out: Path, paths: tuple[str, str]) -> bool:
    """Whether a file group (parquet, mp4) is there; its parquet is written last and ends with what is read here."""
    data, video = (out / path for path in paths)
    try:
        return video.is_file() and NOTE_KEY in (pq.read_schema(data).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def record_missing(settings: Recording, out: Path, layout: Layout, make: MakeGroups) -> None:
    """Record what is missing or damaged, and finish the dataset. The caller holds the folder's lock."""
    clean(out)
    settings.write(out)
    damaged = changed_files(out) if (out / "meta/info.json").exists() else []
    if damaged:
        tqdm.write(f"{out}: {len(damaged)} files are missing or damaged ({damaged[0]} first) and are made again")
        (out / "meta/info.json").unlink()  # until all is mended the dataset is unfinished
    missing = [i for i in settings.groups if set(layout.paths(i)) & set(damaged) or not is_whole(out, layout.paths(i))]
    for file_index in missing:
        (out / layout.paths(file_index)[0]).unlink(missing_ok=True)
    make(missing)
    clean(out)  # once more: the workers of a killed run end a moment after it
    captions = out / "captions.jsonl"
    added = captions.read_bytes() if damaged and captions.exists() else None
    finish(out, layout, settings.test_share)
    if added is not None:  # there may be more than the original ones
        write_atomic(captions, added)
    forget_parts(out)


def record_part(settings: Recording, out: Path, layout: Layout, make: MakeGroups, part: Part) -> None:
    """Record what is missing of a part's file groups; the last part to end finishes the dataset, once.

    Raises:
        UserError: another job records this part, the dataset is damaged, or groups vanished.
    """
    info = out / "meta/info.json"
    if info.exists():
        if changed := changed_files(out):
            raise UserError(f"{changed[0]} of {out} is missing or damaged: give --part 1/1, which makes it again")
        return
    with part.working(out):
        settings.write(out)
        check_folder(out, settings)  # another part may have come with other settings at this moment
        mine = part.share(settings.groups)
        missing = [i for i in mine if not is_whole(out, layout.paths(i))]
        tqdm.write(f"{part} of {out}: {len(mine)} of {len(settings.groups)} file groups, {len(missing)} to record")
        make(missing)
    if left := part.left(out):
        tqdm.write(f"{part} of {out} is recorded; without {', '.join(map(str, left))} the dataset is unfinished")
        return
    exactly_once(out / ".finishing", info.exists, partial(finish_parts, settings, out, layout))


def finish_parts(settings: Recording, out: Path, layout: Layout) -> None:
    """Finish a dataset whose parts are all made.

    Raises:
        UserError: file groups vanished since.
    """
    if lost := [i for i in settings.groups if not is_whole(out, layout.paths(i))]:
        raise UserError(f"{layout.paths(lost[0])[0]} of {out} was lost: run the same command with --part 1/1")
    clean(out)
    finish(out, layout, settings.test_share)
    forget_parts(out)


def record_groups(settings: Recording, out: Path, numbers: list[int], workers: int) -> None:
    """Record file groups, with a progress bar."""
    todo = sum(len(settings.members(i)) for i in numbers) * settings.frames
    with tqdm(total=todo, unit=" frames", desc=f"record {settings.world}", smoothing=0.1) as bar:
        if workers == 1:
            for file_index in numbers:
                record_group(settings, out, file_index, bar.update)
        else:
            record_parallel(settings, out, numbers, workers, bar)


def clean(out: Path) -> None:
    """Remove what interrupted writes left behind. Captions may be written beside a recording and are not touched."""
    for leftover in [*leftovers(out / "data"), *leftovers(out / "videos"), *leftovers(out / "meta")]:
        leftover.unlink(missing_ok=True)


def play_ahead(
    settings: Recording, numbers: list[int], workers: int, keep: Callable[[Episode, int], Any]
) -> Iterator[Any]:
    """Play the episodes `numbers` in `workers` fresh processes and yield `keep(episode, number)` of each, in order.

    A group and a few more wait to be taken: the players go on while whoever takes them is busy with a group. Only what
    is kept travels between the processes.

    Raises:
        UserError: a playing process was killed.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    waiting: deque[Future] = deque()
    try:
        for number in numbers:
            waiting.append(pool.submit(play_in_worker, settings, number, keep))
            if len(waiting) > settings.group + 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError("a playing process was killed, perhaps for memory: run again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def play_in_worker(settings: Recording, number: int, keep: Callable[[Episode, int], Any]) -> Any:
    """What `keep` makes of an episode that this process plays; its world stays open for the next one."""
    if settings.world not in _worlds:  # a simulator may take longer to start than an episode to play
        _worlds[settings.world] = settings.open()
    return keep(play_episode(_worlds[settings.world], settings.seed, number, settings.frames), number)


_worlds: dict[str, World] = {}  # of a worker process, which plays for one recording


def record_parallel(settings: Recording, out: Path, missing: list[int], workers: int, bar: tqdm) -> None:
    """Record the missing file groups in `workers` fresh processes.

    Raises:
        UserError: a recording process was killed.
    """
    context = multiprocessing.get_context("spawn")
    done, stopped = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(min(workers, len(missing) or 1), context, start_worker, (done, stopped))
    try:
        running: set[Future] = {pool.submit(record_in_worker, settings, out, i) for i in missing}
        while running:
            finished, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            bar.update(done.value - bar.n)
            for future in finished:
                future.result()
    except BrokenProcessPool:
        raise UserError("a recording process was killed, perhaps for memory: run again with fewer --workers") from None
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def start_worker(done: Any = None, stopped: Any = None) -> None:
    """Keep the shared frame counter and the sign to stop; leave when the main process is gone, even when it was killed.

    Ctrl-C reaches every process of a terminal: the main process answers it, and a worker stops after its episode.
    """
    global _done, _stopped
    _done, _stopped = done, stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), end_engines(), os._exit(1)), daemon=True).start()
    multiprocessing.util.Finalize(None, end_engines, exitpriority=0)


def end_engines() -> None:
    """Doom runs in a process of its own, which outlives the one that plays, and holds its output open."""
    for engine in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            engine.kill()


def record_in_worker(settings: Recording, out: Path, file_index: int) -> None:
    """Record a file group; played frames are counted for the main process, which may end this between episodes."""

    def count(frames: int) -> None:
        with _done.get_lock():
            _done.value += frames
        if _stopped.is_set():
            raise SystemExit

    record_group(settings, out, file_index, count)


def record_group(settings: Recording, out: Path, file_index: int, progress: Any) -> None:
    """Play and write the episodes of one file group; `progress(frames)` is called after each."""
    world, episodes = settings.open(), []
    for number in settings.members(file_index):
        episodes.append(play_episode(world, settings.seed, number, settings.frames))
        progress(settings.frames)
    write_group(out, file_index, episodes, settings.layout(world))
