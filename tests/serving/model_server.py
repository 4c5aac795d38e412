"""A server that speaks OpenAI's protocol for a policy embedded in the package: log-probabilities, prefixes, all.

Answers depend on the request only (the seed is drawn from it), so the same request can be asked twice and compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import json

import torch
from aiohttp import web

from ibpo.demo import model_path
from ibpo.rollouts.hf import load_policy


class ModelServer:
    def __init__(self, experiment="thinking"):
        self.model, self.tokenizer = load_policy(str(model_path(experiment)))
        self.model.eval()
        self.bodies = []

    def app(self):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_post("/v1/completions", self.complete)
        return app

    @torch.no_grad()
    def logprobs(self, prompt, past=None, last=None):
        """Log-probabilities of the next token, and the cache."""
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] if last is None else [last]
        out = self.model(input_ids=torch.tensor([ids]), past_key_values=past, use_cache=True)
        return torch.log_softmax(out.logits[0, -1].double(), -1), out.past_key_values

    def tokens(self, prompt, most, seed):
        """The response's tokens one after the other, each with the log-probabilities that it was drawn from."""
        draw = torch.Generator().manual_seed(seed)
        scores, past = self.logprobs(prompt)
        for _ in range(most):
            token = int(torch.multinomial(scores.exp(), 1, generator=draw))
            yield token, scores
            if token == self.tokenizer.eos_token_id:
                return
            scores, past = self.logprobs(prompt, past, token)

    def prompt_of(self, body, chat):
        if not chat:
            return body["prompt"]
        text = " ".join(message["content"] for message in body["messages"])
        thinking = (body.get("chat_template_kwargs") or {}).get("enable_thinking")
        return text if thinking is None else f"{text} {'<think>' if thinking else '<answer>'}"

    async def complete(self, request):
        body, chat = await request.json(), request.path.endswith("chat/completions")
        self.bodies.append(body)
        prompt = self.prompt_of(body, chat)
        seed = int.from_bytes(hashlib.sha256(json.dumps([prompt, body.get("seed")]).encode()).digest()[:4])
        made = await asyncio.to_thread(lambda: list(self.tokens(prompt, body.get("max_tokens") or 64, seed)))
        texts = [f"{self.tokenizer.convert_ids_to_tokens(token)} " for token, _ in made]
        ended = made[-1][0] == self.tokenizer.eos_token_id
        shown = texts[:-1] if ended else texts
        base = {"id": f"m{seed}", "created": 0, "model": body["model"]}
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(made), "total_tokens": 0}
        if body.get("stream"):
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for i, text in enumerate(shown):
                reason = ("stop" if ended else "length") if i == len(shown) - 1 else None
                piece = {"delta": {"content": text}} if chat else {"text": text}
                await self.event(response, {**base, "choices": [{"index": 0, "finish_reason": reason, **piece}]})
            if (body.get("stream_options") or {}).get("include_usage"):
                await self.event(response, {**base, "choices": [], "usage": usage})
            await response.write(b"data: [DONE]\n\n")
            return response
        text = "".join(shown)
        choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice |= {"index": 0, "finish_reason": "stop" if ended else "length", "logprobs": self.top(made, body, chat)}
        return web.json_response({**base, "choices": [choice], "usage": usage})

    async def event(self, response, row):
        await response.write(b"data: " + json.dumps(row).encode() + b"\n\n")

    def top(self, made, body, chat):
        asked = body.get("top_logprobs") if chat else body.get("logprobs")
        if not asked:
            return None
        rows = []
        for _, scores in made:
            values, ids = scores.topk(asked)
            rows.append(list(zip(self.tokenizer.convert_ids_to_tokens(ids.tolist()), values.tolist(), strict=True)))
        if not chat:
            return {"top_logprobs": [dict(row) for row in rows]}
        return {"content": [{"top_logprobs": [{"token": t, "logprob": v} for t, v in row]} for row in rows]}
