"""200 clips captioned by a real OpenAI-compatible server, killed in the middle: none lost, none on disk asked again.

The server is `transformers serve` with a LLaVA of 0.2M parameters made here: random weights first, whose answers are
noise, then taught in seconds to answer with one JSON object. Between client and server stands a counter that
passes everything on. Command, run from the repository root (needs pip install "transformers[serving]"):

    python benchmarks/caption_server.py /tmp/captions

Result on 2 CPU cores, transformers 5.23.0, openai 3.54.0 (2026-11-24), in about a minute; paths and tokens left out.
The taught model repeats one sentence, so this proves the transport and the file, not what a caption says:

    model : exit 1, 0 of 200 clips captioned, 6 failed (6 x the answer was cut off at --max-tokens; ...)
    model --answer text: exit 0, 6 of 200 clips captioned
    blind --answer text: exit 2, does not see pictures (the question has 236 tokens with and without them)
    killed with 100 captions on disk; 7 more were asked and on their way
    second run: exit 0, asked for 100 clips, 100 were left
    asked for although on disk: 0; asked twice, on their way at the kill: 7
    captions 200, lost 0, lines 200
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path

import torch

from videowm.caption import CaptionConfig, Captioning, Price
from videowm.data.captions import Captions, captions_of, captions_path
from videowm.data.dataset import Dataset
from videowm.data.recording import record_episodes
from videowm.endpoint import Access, AskConfig, Endpoint

ANSWER = '{"short": "A red car drives on.", "detailed": "A red car drives on a grey road between green meadows."}'
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)
CLIPS, FRAMES, CLIP_FRAMES, IMAGE = 200, 8, 17, 64


def question(data: Path, clip: int, clip_frames: int = CLIP_FRAMES) -> list[dict]:
    """What the client asks about a clip, in the processor's own words."""
    config = CaptionConfig(AskConfig("m"), FRAMES, clip_frames, IMAGE)
    work = Captioning(Dataset(data), config, Endpoint(Access("http://127.0.0.1/v1"), config.ask), Price())
    parts = work.question(work.clips[clip])
    work.close()
    return [{"type": "image", "url": p["image_url"]["url"]} if p["type"] == "image_url" else p for p in parts]


@dataclass(frozen=True)
class Size:
    """How large a LLaVA is; a transformer's (width, MLP width, layers, heads)."""

    words: int  # in the vocabulary
    image: int
    patch: int
    vision: tuple[int, int, int, int]
    text: tuple[int, int, int, int]
    phrases: bool = False  # tokens across words: a common phrase is one, and an answer takes a quarter of the steps


TINY = Size(words=600, image=32, patch=16, vision=(32, 64, 2, 2), text=(64, 128, 2, 2))


def make_model(folder: Path, words: list[str], size: Size = TINY):
    """A LLaVA with random weights, its processor and a byte-level tokenizer of `words`, written to `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not size.phrases)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<image>", "<answer>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(words, trainers.BpeTrainer(vocab_size=size.words, special_tokens=special,
                                                       initial_alphabet=alphabet))  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>",
                                        extra_special_tokens={"image_token": "<image>"})  # fmt: skip
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision = CLIPVisionConfig(image_size=size.image, patch_size=size.patch, **dict(zip(names, size.vision)))
    text = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=size.text[-1], max_position_embeddings=2048,
                       **dict(zip(names, size.text)))  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.image_token_id,
                         vision_feature_layer=-1, image_seq_length=(size.image // size.patch) ** 2)  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    images = CLIPImageProcessorPil(size={"shortest_edge": size.image},
                                   crop_size={"height": size.image, "width": size.image})  # fmt: skip
    processor = LlavaProcessor(images, tokenizer, patch_size=size.patch, vision_feature_select_strategy="default",
                               chat_template=TEMPLATE, num_additional_image_tokens=1)  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def teach(model, processor, folder: Path, data: Path) -> None:
    """Some steps on the answer, after which greedy decoding repeats it."""
    answer = processor.tokenizer(ANSWER + "</s>", return_tensors="pt").input_ids
    asked = [
        processor.apply_chat_template([{"role": "user", "content": question(data, clip)}], tokenize=True,
                                      add_generation_prompt=True, return_dict=True, return_tensors="pt")
        for clip in range(0, CLIPS, 50)
    ]  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(300):
        batch = asked[step % len(asked)]
        ids = torch.cat([batch["input_ids"], answer], 1)
        labels = torch.cat([torch.full_like(batch["input_ids"], -100), answer], 1)
        loss = model(input_ids=ids, pixel_values=batch["pixel_values"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            break
    print(f"taught in {step + 1} steps, loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)


class Counting(ThreadingHTTPServer):
    """Passes requests on to servers, one after the other, and counts, by what was asked, requests and good answers."""

    daemon_threads, request_queue_size = True, 64

    def __init__(self, ports: list[int], port: int = 0) -> None:
        self.ports, self.asked, self.answered, self.lock = cycle(ports), Counter(), Counter(), threading.Lock()
        super().__init__(("127.0.0.1", port), Pass)

    def handle_error(self, *_) -> None:
        """A client that was killed."""


class Pass(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        pictures = "image_url" in body.decode()
        key = hashlib.sha256(body).hexdigest()[:12]
        with self.server.lock:
            self.server.asked[key] += pictures
            port = next(self.server.ports)
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        link.request("POST", self.path, body, {"Content-Type": "application/json"})
        answer = link.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        with self.server.lock:
            self.server.answered[key] += pictures and answer.status == 200

    def log_message(self, *_) -> None:
        pass


@contextmanager
def served(folder: Path, log: Path) -> Iterator[Counting]:
    """A model behind `transformers serve`, seen through a counter."""
    server, port = serve(folder, log)
    counter = Counting([port])
    threading.Thread(target=counter.serve_forever, daemon=True).start()
    try:
        yield counter
    finally:
        counter.shutdown()
        server.terminate()
        server.wait()


def serve(folder: Path, log: Path, device: str = "cpu", **environment: str) -> tuple[subprocess.Popen, int]:
    """`transformers serve` on a free port, once it is healthy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", folder, "--port", str(port), "--device", device]
    server = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT,
                              env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment)  # fmt: skip
    for _ in range(240):
        time.sleep(0.5)
        try:
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            link.request("GET", "/health")
            if link.getresponse().status == 200:
                return server, port
        except OSError:
            if server.poll() is not None:
                break
    raise SystemExit(f"transformers serve did not start: see {log}")


def caption(data: Path, counter: Counting, model: Path, *more: str) -> list[str]:
    url = f"http://127.0.0.1:{counter.server_port}/v1"
    return [sys.executable, "-m", "videowm", "caption", str(data), "--base-url", url, "--model", str(model),
            "--frames", str(FRAMES), "--clip-frames", str(CLIP_FRAMES), "--image-size", str(IMAGE),
            "--max-tokens", "120", *more]  # fmt: skip


def make_blind(folder: Path, raw) -> None:
    """A language model without eyes: the server drops the pictures of a question to it without a word."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>")
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=2048, eos_token_id=1)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<answer>"
    tokenizer.save_pretrained(folder)


def few(data: Path, model: Path, out: Path, *ways: list[str]) -> None:
    """Six clips asked of a model, in several ways."""
    with served(model, out / f"{model.name}.log") as counter:
        for more in ways:
            ended = subprocess.run(caption(data, counter, model, "--limit", "6", *more), capture_output=True, text=True)
            said = (ended.stdout + ended.stderr).replace(str(out), "OUT").splitlines()
            said = [line for line in said if line.startswith(("OUT", "videowm: "))]
            print(f"{model.name} {' '.join(more)}: exit {ended.returncode}, {said[-1]}", flush=True)


def main(out: Path) -> None:
    data, model = out / "data", out / "model"
    record_episodes("carracing", data, episodes=25, frames=129, seed=0)  # 8 clips of 17 frames each
    asked = [part["text"] for part in question(data, 0) if part["type"] == "text"]
    network, processor = make_model(model, [*asked, ANSWER])
    few(data, model, out, [], ["--answer", "text"])
    make_blind(out / "blind", processor.tokenizer.backend_tokenizer)
    few(data, out / "blind", out, ["--answer", "text"])
    teach(network, processor, model, data)
    with served(model, out / "serve.log") as counter:
        client = subprocess.Popen(caption(data, counter, model), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while sum(counter.answered.values()) < CLIPS // 2 and client.poll() is None:
            time.sleep(0.01)
        client.kill()
        client.wait()
        [name] = [name for name, header in captions_of(data).items() if header["answer"] == "json"]
        path = captions_path(data, name)
        saved = path.read_bytes().count(b"\n")
        time.sleep(3)  # what was in flight ends
        first = Counter(counter.asked)
        ended = subprocess.run(caption(data, counter, model), capture_output=True, text=True)
    captions = Captions.open(data, name)
    twice = [key for key, times in counter.asked.items() if times > 1]
    again = sum((counter.asked - first).values())
    print(f"killed with {saved} captions on disk; {sum(first.values()) - saved} more were asked and on their way")
    print(f"second run: exit {ended.returncode}, asked for {again} clips, {CLIPS - saved} were left")
    print(f"asked for although on disk: {again - (CLIPS - saved)}; asked twice, on their way at the kill: {len(twice)}")
    print(f"captions {len(captions)}, lost {CLIPS - len(captions)}, lines {path.read_bytes().count(bytes([10]))}")
    print(ended.stdout.splitlines()[-1].replace(str(out), "OUT"), next(iter(captions.values())), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for data, model and logs")
    main(parser.parse_args().out)
