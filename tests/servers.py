"""A server in this process that answers as vLLM does, of a tiny model, with faults to order.

Its answers have the keys of real ones, of which `tests/recorded` has some.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> Any:
    """What a real vLLM answered: its path, the body of the request, the status and the answer."""
    return json.loads((RECORDED / f"vllm-{name}.json").read_text())


class FakeVllm:
    """Serves `model` at `url`. What tests change are its faults; `asked` holds what was asked."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, "teacher"
        self.first = model
        self.max_length, self.max_logprobs = 40, 64
        self.failures: list[int] = []
        """Statuses of the next answers."""
        self.delays: list[float] = []
        """Seconds before the next answers."""
        self.headers: dict[str, str] = {}
        self.key: str | None = None
        self.has_tokenize, self.has_prompt_logprobs = True, True
        self.weights_change = True
        """As VLLM_SERVER_DEV_MODE=1 allows."""
        self.noise = 0.0
        self.temperature = 1.0
        """Of the scores that it tells."""
        self.normalizes_over: int | None = None
        """So many likeliest symbols."""
        self.changes: dict[str, object] = {}
        """Keys of a choice, changed."""
        self.text = " und gut"
        self.finish_reason = "stop"
        self.ignores_reload, self.keeps_cache, self.dies_of_reload = False, False, False
        self.cache: dict[tuple[int, ...], PreTrainedModel] = {}
        """Which weights the beginning of a prompt was read with."""
        self.asked: list[tuple[str, Any]] = []
        self._lock, self._port = threading.Lock(), 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    def start(self) -> None:
        """Answers again, of the weights that it was started with first."""
        fake = self
        self.model, self.cache = self.first, {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def _answer(self, body: Any) -> None:
                status, answer = fake.answer(self.path, body, self.headers.get("authorization"))
                if status == 0:  # died
                    self.close_connection = True
                    return
                content = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **fake.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server, self._port = server, server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Nobody answers at the port any more."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def count(self, path: str) -> int:
        """How often something was asked for."""
        return sum(asked == path for asked, _ in self.asked)

    def answer(self, path: str, body: Any, authorization: str | None) -> tuple[int, Any]:
        self.asked.append((path, body))
        if self._server is None:
            return 0, None
        if self.delays:
            time.sleep(self.delays.pop())
        if self.failures:
            return self.failures.pop(), {"error": {"message": f"broken for {authorization}"}}
        if self.key is not None and authorization != f"Bearer {self.key}":
            return 401, {"error": {"message": f"Incorrect API key provided: {authorization}"}}
        with self._lock, torch.no_grad():
            return self._answered(path, body)

    def _answered(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/models":
            card = {"id": self.name, "object": "model", "max_model_len": self.max_length}
            return 200, {"object": "list", "data": [card]}
        if path in ("/version", "/health", "/resume"):
            return 200, {"version": "0.32.0"}
        if path == "/tokenize" and self.has_tokenize:
            ids = self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])
            return 200, {"count": len(ids["input_ids"]), "tokens": ids["input_ids"]}
        if path.startswith("/pause") and self.weights_change:
            if "clear_cache=true" in path and not self.keeps_cache:
                self.cache.clear()
            return 200, {"status": "paused"}
        if path == "/collective_rpc":
            return self._reloaded(body)
        if path == "/v1/chat/completions":
            return 200, {"choices": [self._text("message")] * body.get("n", 1)}
        if path == "/v1/completions" and body["model"] == self.name:
            return self._completed(body)
        return 404, {"error": {"message": f"{path} does not exist"}}

    def _reloaded(self, body: Any) -> tuple[int, Any]:
        folder = Path(body["kwargs"]["weights_path"])
        if self.dies_of_reload or not folder.is_dir():
            return 500, {"error": {"message": "EngineCore encountered an issue"}}
        if not self.ignores_reload:
            head = self.model.get_output_embeddings().weight
            self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
            if "lm_head.weight" not in load_file(folder / "model.safetensors"):
                # Tied: vLLM's CPU build has the head packed, and packs it again when it is named.
                self.model.set_output_embeddings(copy.deepcopy(self.model.get_output_embeddings()))
                self.model.get_output_embeddings().weight = head
        return 200, {"results": [None]}

    def _text(self, shape: str) -> Any:
        text: Any = {"message": {"role": "assistant", "content": self.text}}
        text = text if shape == "message" else {"text": self.text}
        return {"index": 0, **text, "finish_reason": self.finish_reason, **self.changes}

    def _completed(self, body: Any) -> tuple[int, Any]:
        ids = body["prompt"]
        if isinstance(ids, str):
            return 200, {"choices": [self._text("text")] * body.get("n", 1)}
        if len(ids) + body["max_tokens"] > self.max_length:
            words = f"This model's maximum context length is {self.max_length} tokens."
            return 400, {"error": {"message": words}}
        count = body.get("prompt_logprobs") or (body.get("logprobs", 0) if "echo" in body else 0)
        if count > self.max_logprobs:
            words = f"Requested prompt logprobs of {count}, which is greater than max allowed: "
            return 400, {"error": {"message": f"{words}{self.max_logprobs}"}}
        choice = {"index": 0, "text": "", "logprobs": None, "prompt_logprobs": None}
        if count:
            self._scored(ids, count, body, choice)
        else:
            self._written(ids, body, choice)
        return 200, {"choices": [{**choice, **self.changes}]}

    def log_probs(self, ids: list[int], model: PreTrainedModel | None = None) -> Tensor:
        """What it tells of the token after each, (tokens, vocab)."""
        logits: Tensor = (model or self.model)(torch.tensor([ids])).logits[0].float()
        logits = logits / self.temperature
        if self.noise:
            logits = logits + self.noise * torch.randn(logits.shape)
        found = logits.log_softmax(-1)
        if self.normalizes_over is not None:
            least = found.topk(self.normalizes_over).values[:, -1:]
            found = found.masked_fill(found < least, -torch.inf).log_softmax(-1)
        return found.clamp(min=-9999.0)

    def _scored(self, ids: list[int], count: int, body: Any, choice: dict[str, Any]) -> None:
        rows = []
        for place, expected in enumerate(self.log_probs(ids)[:-1], start=1):
            best, order = expected.topk(min(count, len(expected)))
            kept = dict(zip(order.tolist(), best.tolist(), strict=True))
            rows.append({ids[place]: float(expected[ids[place]]), **kept})  # as vLLM: the token too
        if "echo" in body:
            named = [{f"token_id:{i}": nats for i, nats in row.items()} for row in rows]
            choice["logprobs"] = {"top_logprobs": [None, *named, {"token_id:5": -1.0}]}
        elif self.has_prompt_logprobs:
            full = [{str(i): {"logprob": nats} for i, nats in row.items()} for row in rows]
            choice["prompt_logprobs"] = [None, *full]

    def _written(self, ids: list[int], body: Any, choice: dict[str, Any]) -> None:
        """Ancestral sampling; a prompt that was read before is read with the weights of then."""
        model = self.cache.setdefault(tuple(ids), self.model)
        draw, written, nats = torch.Generator().manual_seed(body["seed"]), list[int](), []
        while len(written) < body["max_tokens"]:
            expected = self.log_probs([*ids, *written], model)[-1]
            if body["temperature"]:
                drawn = (expected / body["temperature"]).softmax(-1)
                written.append(int(torch.multinomial(drawn, 1, generator=draw)))
            else:
                written.append(int(expected.argmax()))
            nats.append(float(expected[written[-1]]))
            if written[-1] in body["stop_token_ids"]:
                choice["finish_reason"] = "stop"
                break
        choice |= {"token_ids": written, "logprobs": {"token_logprobs": nats}}


@contextmanager
def served(
    *models: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[FakeVllm]]:
    """A server for each model."""
    servers = [FakeVllm(model, tokenizer) for model in models]
    try:
        yield servers
    finally:
        for server in servers:
            if server._server is not None:
                server.stop()
