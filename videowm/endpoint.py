"""An OpenAI-compatible server that sees pictures: one question, its answer in words, and a key that nobody sees.

The client's own retries serve 408, 409, 429 and 5xx answers, time-outs and lost connections, with backoff, jitter and
Retry-After. After an answer without a caption, this module repeats the question.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from videowm.types import UserError

DRAWS = 3  # answers to one question, of which the first with a caption is taken
SCHEMA = {
    "type": "object",
    "properties": {"short": {"type": "string"}, "detailed": {"type": "string"}},
    "required": ["short", "detailed"],
    "additionalProperties": False,
}
FORMS = {
    "json": 'Answer with one JSON object and nothing else: {"short": "one sentence", "detailed": "three to six"}.',
    "text": "Answer in plain text: first one sentence on a line of its own, then three to six sentences in detail.",
}


@dataclass(frozen=True)
class AskConfig:
    """What decides an answer besides the question, and is hashed with it."""

    model: str
    answer: Literal["json", "text"] = "json"  # text: any words are taken, for models that cannot write JSON
    max_tokens: int = 800
    temperature: float | None = None  # None: the server's own; some models refuse any other


@dataclass(frozen=True)
class Access:
    """How the server is reached; decides no answer."""

    base_url: str
    key_env: str | None = None  # environment variable of the key; None: OPENAI_API_KEY, or no key
    timeout: float = 120.0  # seconds of silence
    retries: int = 5

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^\s@?#]+", self.base_url):
            raise UserError("--base-url is no address like http://127.0.0.1:8000/v1: give one, without a password")


class NoCaption(Exception):
    """One question without a usable answer: `reason` names the kind, `detail` has the server's own words."""

    def __init__(self, reason: str, detail: str = "", *, status: int | None = None) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.status = reason, detail, status

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class UselessAnswer(NoCaption):
    """The server answered without an error, but with no caption: another draw may do."""


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    text: str
    cut: bool  # at `max_tokens`


class Endpoint:
    """A server and one of its models. Use as `async with`: `ask_first` alone, then `ask`, many at once."""

    def __init__(self, access: Access, config: AskConfig) -> None:
        try:
            import openai
        except ImportError:
            raise UserError("the openai client is not installed: pip install 'videowm[captions]'") from None
        self.openai, self.access, self.config = openai, access, config
        self.key = read_key(access.key_env)
        self.tokens_in = self.tokens_out = 0  # of all answers, usable or not
        self.check_tokens = (0, 0)  # of these, what no clip cost
        self._asked = 0  # tokens of the latest question
        self._dialect = next(iter(dialects(config)))

    async def __aenter__(self) -> Endpoint:
        access = self.access
        self.client = self.openai.AsyncOpenAI(
            base_url=access.base_url, api_key=self.key or "none", timeout=access.timeout, max_retries=access.retries
        )
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.client.close()

    async def ask(self, content: list[dict[str, Any]]) -> tuple[str, str]:
        """(short, detailed) for a question of texts and pictures, or NoCaption."""
        for _ in range(DRAWS - 1):
            with suppress(UselessAnswer):
                return read_words(await self._complete(content), self.config.answer)
        return read_words(await self._complete(content), self.config.answer)

    async def ask_first(self, content: list[dict[str, Any]]) -> tuple[str, str]:
        """`ask`, and find out whether this server sees pictures and which dialect of a request it takes."""
        refusals = []
        for dialect in dialects(self.config):
            self._dialect = dialect
            try:
                words = await self.ask(content)
                await self._check_seen(content)
                return words
            except NoCaption as error:
                failed = error
            refusals.append((dialect, failed))
            if failed.status not in (400, 422):
                break
        url, model, check = self.access.base_url, self.config.model, "check --base-url, which mostly ends in /v1,"
        if failed.reason in (UNREACHABLE, NO_COMPLETION):
            raise UserError(f"{url} is no chat-completions server ({failed}): {check} and that it runs")
        if failed.status in (403, 404, 405):
            raise UserError(f"{url} does not take questions to model {model!r} ({failed}): {check} and --model")
        if failed.status in (400, 422) or (failed.status or 0) >= 500:
            return await self._ask_again(content, refusals)
        raise failed

    async def _ask_again(self, content: list[dict], refusals: list[tuple[dict, NoCaption]]) -> tuple[str, str]:
        """Whether it is the pictures: UserError if words alone are answered in a dialect and pictures fail again."""
        at = f"model {self.config.model!r} at {self.access.base_url}"
        for dialect, failed in refusals:
            self._dialect = dialect
            try:
                await self._complete([text("Say yes.")])
            except NoCaption:
                continue
            try:
                return await self.ask(content)
            except NoCaption as error:
                if error.status != failed.status:
                    raise
                raise UserError(f"{at} answers words but not pictures ({failed}): give a model with vision") from None
        failed = refusals[-1][1]
        if failed.status in (400, 422):
            raise UserError(f"{at} does not take the question ({failed}): check --model and the settings")
        raise failed

    async def _check_seen(self, content: list[dict[str, Any]]) -> None:
        """UserError where pictures cost no tokens: some servers drop them in silence if the model cannot see."""
        blind = [part for part in content if part["type"] == "text"]
        if len(blind) == len(content) or not self._asked:
            return
        seen, tokens = self._asked, (self.tokens_in, self.tokens_out)
        try:
            await self._complete(blind)
        except NoCaption:
            return
        self.check_tokens = self.tokens_in - tokens[0], self.tokens_out - tokens[1]
        if self._asked == seen:
            raise UserError(
                f"model {self.config.model!r} at {self.access.base_url} does not see pictures (the question has {seen} "
                "tokens with and without them): give a model with vision"
            )

    async def _complete(self, content: list[dict[str, Any]]) -> Answer:
        openai, messages = self.openai, [{"role": "user", "content": content}]
        asked = {"model": self.config.model, "messages": messages, **self._dialect}
        try:
            answer = await self.client.chat.completions.create(**asked)
            choice = answer.choices[0]
            said = choice.message.content or ""
            usage = answer.usage
            if usage:
                self._asked = usage.prompt_tokens or 0
                self.tokens_in += self._asked
                self.tokens_out += usage.completion_tokens or 0
        except openai.APITimeoutError:
            raise NoCaption(f"no answer within {self.access.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise NoCaption(UNREACHABLE, self._line(error.__cause__ or error)) from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except (openai.OpenAIError, AttributeError, TypeError, LookupError, ValueError):
            raise UselessAnswer(NO_COMPLETION) from None
        return Answer(self.redact(said), cut=choice.finish_reason == "length")

    def _refusal(self, error: Any) -> Exception:
        """An HTTP status as the failure of one question, or of all of them."""
        message = error.body.get("message") if isinstance(error.body, dict) else None
        said = self._line(message or error.message)
        if error.status_code == 401:
            wanted = self.access.key_env or "OPENAI_API_KEY"
            return UserError(f"{self.access.base_url} does not accept the key ({said}): set {wanted} to a valid one")
        if error.code == "insufficient_quota":
            return UserError(f"{self.access.base_url} wants payment ({said}): run the same command again afterwards")
        return NoCaption(f"HTTP {error.status_code}", said, status=error.status_code)

    def redact(self, words: str) -> str:
        """Foreign words without the key, should a server repeat it."""
        return words.replace(self.key, "[key]") if self.key else words

    def _line(self, words: object) -> str:
        """An error of the server's or the client's as part of a sentence."""
        return " ".join(self.redact(str(words)).split())[:200].rstrip(".")


UNREACHABLE = "no connection"
NO_COMPLETION = "the answer is no chat completion"


def read_key(variable: str | None) -> str:
    """The key from the environment, empty where none is needed. Its name is never repeated: it may be the key.

    Raises:
        UserError: `variable` is not set in the environment, or the key holds blanks or characters outside ASCII.
    """
    key = os.environ.get(variable or "OPENAI_API_KEY", "").strip()
    if variable and not key:
        raise UserError("--key-env names no environment variable that is set: give the variable's name, not the key")
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(f"{variable or 'OPENAI_API_KEY'} holds blanks or strange characters: set it to the key alone")
    return key


def dialects(config: AskConfig) -> Iterator[dict[str, Any]]:
    """Request settings, best first: not every server takes a schema, and the limit on tokens has two names."""
    forms: list[dict[str, Any]] = [{}]
    if config.answer == "json":
        schema = {"name": "caption", "strict": True, "schema": SCHEMA}
        forms.insert(0, {"response_format": {"type": "json_schema", "json_schema": schema}})
    temperature = {} if config.temperature is None else {"temperature": config.temperature}
    for form in forms:
        for limit in ("max_completion_tokens", "max_tokens"):
            yield form | temperature | {limit: config.max_tokens}


def read_words(answer: Answer, form: str) -> tuple[str, str]:
    """(short, detailed) from an answer; `UselessAnswer` has the reason where there is none."""
    said = re.sub(r"(?s)^.*</think>", "", answer.text).strip()
    if not said:
        raise UselessAnswer("the answer is empty")
    if form == "text":
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        short = lines[0] if len(lines) > 1 else re.split(r"(?<=[.!?])\s", said)[0]
        return short, " ".join(lines[1:] or lines)
    try:
        found = json.loads(said[said.index("{") : said.rindex("}") + 1])
        words = tuple(" ".join(found[key].split()) for key in ("short", "detailed"))
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = "the answer was cut off at --max-tokens" if answer.cut else "the answer is not the JSON asked for"
        raise UselessAnswer(reason, said[:200]) from None
    if not all(words):
        raise UselessAnswer("the answer holds an empty caption", said[:200])
    return words


def text(words: str) -> dict[str, Any]:
    """Words as a part of a question."""
    return {"type": "text", "text": words}


def picture(frame: np.ndarray, size: int) -> dict[str, Any]:
    """A frame uint8 "H W 3", its longer side scaled to `size` pixels, as a `data:` image."""
    height, width = frame.shape[:2]
    scale, buffer = size / max(height, width), io.BytesIO()
    scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
    Image.fromarray(frame).resize(scaled, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=92)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}
