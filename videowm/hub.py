"""The Hugging Face Hub: folders go up in one commit and come down whole; what goes wrong is one sentence.

The address and the key are those of every program of the hub: `HF_ENDPOINT`, and `hf auth login` or `HF_TOKEN`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from videowm.files import is_full, no_room, read_json, visible, write_json
from videowm.types import UserError, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["model", "dataset"]
NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
NOTE = ".pulled.json"  # what a folder was pulled from
LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write there"


def check_name(name: str) -> None:
    """Refuse what names no repository.

    Raises:
        UserError: the name is not of the form user/name.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} names no repository: give user/name, or folder:DIR for a folder of this machine")


def client() -> HfApi:
    """The client of the hub that the environment names."""
    from huggingface_hub import HfApi

    return HfApi()


def push(folder: Path, name: str, *, kind: Kind, private: bool, revision: str | None, tag: str | None = None) -> str:
    """Upload a folder in one commit, without its hidden files; returns the commit's address.

    Large files that an interrupted call has uploaded are not uploaded again.

    Args:
        folder: what is uploaded.
        name: user/name; made if it is not there.
        kind: of the repository.
        private: whether a new repository is private.
        revision: branch; None: main.
        tag: put on the commit, and moved there if it is on another.

    Raises:
        UserError: the name, the key or the address is wrong, or the hub refuses the files.
    """
    from huggingface_hub import CommitOperationAdd

    check_name(name)
    paths = [path for path in visible(folder, "**/*") if path.is_file()]
    files = [(path.relative_to(folder), path) for path in paths]
    files = [(inside, path) for inside, path in files if not any(part.startswith(".") for part in inside.parts)]
    api = client()
    with speaking(name):
        api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, repo_type=kind, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(inside.as_posix(), str(path)) for inside, path in files]
        done = api.create_commit(name, operations, commit_message="videowm push", repo_type=kind, revision=revision)
        if tag is not None:
            api.create_tag(name, tag=tag, repo_type=kind, revision=done.oid, exist_ok=True)
    return str(done.commit_url)


def pull(name: str, out: Path, *, revision: str | None, check: Callable[[Path], None]) -> None:
    """Download a repository, of a model or else of a dataset, into the new folder `out`.

    It comes into a hidden folder beside `out`, in which an interrupted call goes on, is checked, and is then renamed.

    Args:
        name: user/name.
        out: made; nothing is done where it was pulled from there already.
        revision: branch, tag or commit; None: main.
        check: raises a UserError where the folder that it is given is not as it should be.

    Raises:
        UserError: no repository has that name, it cannot be reached, `out` holds something, or the disk is full.
    """
    check_name(name)
    asked = {"name": name, "revision": revision}
    if (out / NOTE).is_file() and (note := read_json(out / NOTE, "remove it")) == note | asked:
        return
    if out.exists() and (out.is_file() or visible(out, "*")):
        raise UserError(f"{out} already holds something: give a new or empty folder as --out")
    aside = out.with_name(f".{out.name}.pull")
    with speaking(name):
        kind = kind_of(name, revision)
        snapshot(name, kind=kind, revision=revision, into=aside)
    try:
        check(aside)
    except UserError:
        shutil.rmtree(aside)
        raise
    shutil.rmtree(aside / ".cache", ignore_errors=True)
    write_json(aside / NOTE, asked | {"kind": kind})
    if out.exists():
        shutil.rmtree(out)
    aside.rename(out)


def kind_of(name: str, revision: str | None) -> Kind:
    """Whether a name is a model's or else a dataset's."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        client().repo_info(name, repo_type="model", revision=revision)
    except RepositoryNotFoundError:
        client().repo_info(name, repo_type="dataset", revision=revision)
        return "dataset"
    return "model"


def snapshot(name: str, *, kind: Kind = "model", revision: str | None = None, into: Path | None = None,
             **more: object) -> Path:  # fmt: skip
    """The folder of a repository: `into`, or in the hub's cache of this machine.

    Raises:
        UserError: no repository has that name, or it cannot be reached and is not in the cache.
    """
    from huggingface_hub import snapshot_download

    with speaking(name):
        return Path(snapshot_download(name, repo_type=kind, revision=revision, local_dir=into, **more))


@contextmanager
def speaking(name: str) -> Iterator[None]:
    """Within it, what the hub's client raises becomes one sentence.

    Raises:
        UserError: anything went wrong that a user can mend.
    """
    from huggingface_hub.errors import HfHubHTTPError

    transport = HfHubHTTPError.__bases__[0]  # of the HTTP library: the errors of connections are of this class too
    try:
        yield
    except (transport, OSError, RuntimeError, ValueError) as error:
        if (sentence := sentence_of(error, name)) is None:
            raise
        raise sentence from error


def sentence_of(error: BaseException, name: str) -> UserError | None:
    """What is wrong, for a person; None where no person can mend it."""
    from huggingface_hub import constants, errors

    if is_full(error):
        return no_room(Path(getattr(error, "filename", None) or name))
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{name} has no such revision: look at the branches and tags on its page")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"there is no repository {name} at {constants.ENDPOINT}, or it is private: correct the name, "
                         "or log in with `hf auth login`")  # fmt: skip
    if status in (401, 403):
        return UserError(f"{constants.ENDPOINT} refuses the key for {name} ({status}): {LOGIN}")
    if status is not None:
        return UserError(f"{constants.ENDPOINT} refuses {name} ({status}: {first_line(error)}): run the same command "
                         "again later")  # fmt: skip
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{name!r} names no repository ({first_line(error)}): give user/name")
    if error.__cause__ is not None and (inner := sentence_of(error.__cause__, name)) is not None:
        return inner
    if isinstance(error, errors.HfHubHTTPError.__bases__[0] | ConnectionError | errors.LocalEntryNotFoundError):
        return UserError(f"{constants.ENDPOINT} cannot be reached for {name}: connect to it, or set HF_ENDPOINT, and "
                         "run the same command again")  # fmt: skip
    return None
