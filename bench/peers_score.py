"""Measures scoring throughput beside PyTorch with Transformers: the same weights and tokens.

    python bench/peers_score.py 117M-int8 117M-fp32 [--checkpoint DIR] [--threads 2] [--rounds 5]

The bundles were made with `--random-weights`, or `--checkpoint` names the directory of OpenAI's
files they were made from. Needs torch and transformers. Rounds are interleaved, so that other load
on the machine affects all alike; figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt2rt import GPT2, Passage
from gpt2rt_bench.peers.weights import transformers_name
from gpt2rt_export.sources import Checkpoint, OpenAICheckpoint, RandomCheckpoint


def torch_model(weights: Checkpoint) -> Any:
    """GPT-2 in Transformers, float32, with these weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    hparams = weights.hparams
    shape = {name: getattr(hparams, name) for name in NAMES}
    model = GPT2LMHeadModel(
        GPT2Config(**shape, vocab_size=hparams.n_vocab, tie_word_embeddings=hparams.tied)
    ).eval()
    arrays = {}
    for name in hparams.variables():
        values = weights.read(name)
        values = values[0] if values.ndim == 3 else values
        arrays[transformers_name(name)] = torch.from_numpy(values)
    missing, unexpected = model.load_state_dict(arrays, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing  # which is wte
    assert not unexpected, unexpected
    return model


NAMES = ("n_ctx", "n_embd", "n_head", "n_layer")


def torch_scorer(model: Any, threads: int) -> Callable[[list[int]], list[float]]:
    import torch

    torch.set_num_threads(threads)

    def score(tokens: list[int]) -> list[float]:
        with torch.inference_mode():
            logits = model(torch.tensor([tokens[:-1]])).logits[0]
            found = torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens[1:])[:, None])
            return [float(value) for value in found[:, 0]]

    return score


def runtime_scorer(model: GPT2) -> Callable[[list[int]], list[float]]:
    def score(tokens: list[int]) -> list[float]:
        (scores,) = model.score_tokens([Passage(tuple(tokens))])
        return [float(value) for value in scores.logprobs]

    return score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="bundles by name or directory")
    parser.add_argument("--checkpoint", type=Path, help="OpenAI's files")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--text", type=Path, help="a text to score; left out: random tokens")
    asked = parser.parse_args()

    loaded = {name: GPT2.load(name, threads=asked.threads) for name in asked.models}
    first = next(iter(loaded.values()))
    hparams = first.hparams
    assert all(model.hparams == hparams for model in loaded.values()), "bundles of one shape only"
    if asked.text:
        tokens = first.tokenizer.encode(asked.text.read_text(encoding="utf-8"))
    else:
        tokens = np.random.default_rng(0).integers(0, hparams.n_vocab, hparams.n_ctx).tolist()
    tokens = [first.tokenizer.end_of_text, *tokens][: hparams.n_ctx + 1]

    scorers = {name: runtime_scorer(model) for name, model in loaded.items()}
    weights: Checkpoint = (
        OpenAICheckpoint(asked.checkpoint, with_tokenizer=False)
        if asked.checkpoint
        else RandomCheckpoint(hparams, asked.seed)
    )
    peer = torch_scorer(torch_model(weights), asked.threads)
    scorers["PyTorch + Transformers fp32"] = peer
    times: dict[str, list[float]] = {name: [] for name in scorers}
    results: dict[str, list[float]] = {}
    for number in range(asked.rounds + 1):
        for name, score in scorers.items():
            time.sleep(0.2)  # until the threads of the one before have stopped spinning
            began = time.perf_counter()
            results[name] = score(tokens)
            if number:
                times[name].append(time.perf_counter() - began)
    wanted = np.array(results["PyTorch + Transformers fp32"])
    base = statistics.median(times["PyTorch + Transformers fp32"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        off = np.abs(np.array(results[name]) - wanted).max()
        rate = (len(tokens) - 1) / median
        print(f"{name:30} {rate:8.1f} tokens/s  {base / median:5.2f} times  off by {off:.2g} nats")


if __name__ == "__main__":
    main()
