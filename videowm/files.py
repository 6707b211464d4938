"""Files that are whole or not there, JSON that is read with one clear error, and the one kind of hash.

Every room writes through this module: content goes to a hidden file beside its target, is forced to the disk, and is
then renamed. A process that dies leaves the old file, a full disk leaves the old file and one sentence.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from videowm.types import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, over the quota, over the largest file
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
LEFTOVER = re.compile(r"\..+\.(\d+)\.tmp(\.[^.]*)?", re.DOTALL)  # the names that `atomic` writes to
HASH_DIGITS = 16  # hexadecimal digits of a hash that names something


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; at the end that file is synced and takes the name of `path`.

    The file gets the permissions that the umask gives. When the body raises, `path` is untouched.

    Raises:
        UserError: the disk, the quota or the largest file size is reached.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield aside
        aside.chmod(0o666 & ~UMASK)
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if is_full(error):
            raise no_room(path) from None
        raise


def leftovers(folder: Path) -> list[Path]:
    """The files below `folder` that `atomic` calls of killed processes left behind, or of living ones write now."""
    return [path for path in Path(folder).rglob(".*.tmp*") if LEFTOVER.fullmatch(path.name)]


def remove_leftovers(folder: Path) -> None:
    """Remove what calls of `atomic` have left below `folder`, except files of processes that this machine runs."""
    for path in leftovers(folder):
        if not is_alive(int(LEFTOVER.fullmatch(path.name)[1])):
            path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether this machine runs a process of that id."""
    if os.name == "nt":  # where os.kill ends a process
        import psutil

        return psutil.pid_exists(process)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def visible(folder: Path, pattern: str) -> list[Path]:
    """The paths below `folder` that fit `pattern`, sorted, without hidden ones; `Path.glob` alone finds those too."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def share(folder: Path) -> None:
    """Give the files below a folder the permissions that the umask gives; safetensors writes for the owner alone."""
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~UMASK)


def current_umask() -> int:
    """The umask of this process; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


UMASK = current_umask()  # read once, at import, before any thread is started


def is_full(error: BaseException) -> bool:
    """Whether an error means that a disk or quota is full. An error of safetensors has the text and no number."""
    numbers = [f"os error {number}" for number in FULL]
    return getattr(error, "errno", None) in FULL or any(text in str(error) for text in ("No space left", *numbers))


def no_room(path: Path) -> UserError:
    """The sentence for a full disk."""
    return UserError(f"no room for {path}: free disk space, or raise the quota, and run the same command again")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Around work that writes below `folder`: what the system refuses becomes one sentence.

    Raises:
        UserError: the folder is read-only, below a file, a circle of links, or its name is too long.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise UserError(f"{folder} cannot be written ({error.strerror}): give a folder that you may write") from None


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic(path) as aside:
        aside.write_bytes(content)


def write_new(path: Path, content: bytes) -> bool:
    """Write `content` to `path`, whole, unless there is such a file; returns whether it was written.

    Of several hosts that call this at once, one writes. File systems without hard links cannot promise that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:200]}.{uuid.uuid4().int}.tmp")
    try:
        aside.write_bytes(content)
        aside.chmod(0o666 & ~UMASK)
        sync(aside)
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS) or path.exists():
            raise
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return True


def check_output(path: Path, suffix: str) -> None:
    """Refuse a file that could not be written at the end of the work; makes its folder.

    Raises:
        UserError: the name does not end in `suffix`, or it is a folder's.
    """
    if path.suffix != suffix:
        raise UserError(f"{path}: expected a name that ends in {suffix}")
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file that ends in {suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all. NaN and infinity become null, which every reader of JSON takes."""
    write_atomic(path, as_json(content))


def as_json(content: Any) -> bytes:
    """What `write_json` writes."""
    text = json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def finite(content: Any) -> Any:
    """The same nested content with None for every number that JSON cannot hold."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not abs(content) < float("inf") else content


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The content of a JSON file that holds a mapping.

    Args:
        path: the file.
        remedy: the end of the error sentence, such as "record it again".

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is damaged (not JSON): {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (holds a {type(content).__name__}, expected a dict): {remedy}")
    return content


def decode_text(content: bytes) -> tuple[str, str]:
    """Text and its encoding: UTF-8, UTF-16 where it begins with its mark, else Windows-1252, which fits any bytes.

    Raises:
        UnicodeDecodeError: the content begins with the mark of UTF-16 and is none.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16"), "utf-16"
    try:
        return content.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace"), "windows-1252"


def sync(path: Path) -> None:
    """Force a file or folder to the disk; Windows knows no such thing of a folder."""
    if os.name == "nt" and Path(path).is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """sha256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_hash(*parts: bytes | str) -> str:
    """The first 16 hexadecimal digits of the sha256 over all parts, one after the other."""
    return short_hash_of(parts)


def short_hash_of(parts: Iterable[bytes | str]) -> str:
    """As `short_hash`, of parts that need not be in memory at once."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:HASH_DIGITS]
