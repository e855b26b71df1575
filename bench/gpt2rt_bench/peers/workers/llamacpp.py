"""llama.cpp through llama-cpp-python: GGUF written here, quantised and run by llama.cpp itself.

A batch is one `llama_decode` of several sequences.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from protocol import Answer, Ready, Tokens, greedy

CALLBACKS: list[Any] = []  # a callback must live as long as llama.cpp may call it

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "q4_0": 2}  # enum llama_ftype
KV_TYPES = {"f32": 0, "f16": 1}  # enum ggml_type

# Transformers' names -> llama.cpp's, architecture gpt2; the ending .weight or .bias stays.
PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
WHOLE = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}


@dataclass(frozen=True)
class LlamaCppSettings:
    """Options of llama.cpp; the defaults were the fastest tried."""

    ubatch: int = 512
    flash: int = 0  # 1: flash attention, -1: llama.cpp decides; off decodes long texts faster
    kv: str = "f16"


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """`model` is a GGUF file; quantised by `llama_model_quantize` from one in float32 beside it.

    With q4_0 llama.cpp stores the lm_head, which is the token embedding, in q6_K by default.
    """
    if precision == "f32":
        write_gguf(checkpoint, model)
        return
    plain = model.with_name("f32.gguf")
    write_gguf(checkpoint, plain)
    import llama_cpp

    llama_cpp.llama_backend_init()
    silence(llama_cpp)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[precision]
    code = llama_cpp.llama_model_quantize(
        str(plain).encode(), str(model).encode(), ctypes.byref(params)
    )
    plain.unlink()
    if code:
        raise RuntimeError(f"llama_model_quantize to {precision} failed with code {code}")


def write_gguf(checkpoint: Path, path: Path) -> None:
    """Write a Hugging Face checkpoint as GGUF in float32, with llama.cpp's names."""
    import gguf
    import numpy as np
    from safetensors import safe_open

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    n_embd = config["n_embd"]
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(config["n_inner"] or 4 * n_embd)
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(FILE_TYPES["f32"])
    add_vocabulary(writer, checkpoint, config)
    with safe_open(checkpoint / "model.safetensors", "numpy") as file:
        for name in file.keys():  # noqa: SIM118  # no mapping
            values = file.get_tensor(name)
            if re.search(r"\.c_(attn|proj|fc)\.weight$", name):  # Conv1D: [in, out]
                values = np.ascontiguousarray(values.T)
            writer.add_tensor(gguf_name(name), values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def gguf_name(name: str) -> str:
    """`transformer.h.0.attn.c_attn.weight` -> `blk.0.attn_qkv.weight`."""
    stem, _, ending = name.rpartition(".")
    if block := re.fullmatch(r"transformer\.h\.(\d+)\.(.*)", stem):
        return f"blk.{block[1]}.{PARTS[block[2]]}.{ending}"
    return f"{WHOLE[stem]}.{ending}"


def add_vocabulary(writer: Any, checkpoint: Path, config: dict[str, Any]) -> None:
    import gguf

    vocabulary = json.loads((checkpoint / "vocab.json").read_text(encoding="utf-8"))
    symbols = {token: symbol for symbol, token in vocabulary.items()}
    tokens, end = range(config["vocab_size"]), config["eos_token_id"]
    kinds = [
        gguf.TokenType.CONTROL
        if token == end
        else gguf.TokenType.NORMAL
        if token in symbols
        else gguf.TokenType.UNUSED
        for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([symbols.get(token, f"[PAD{token}]") for token in tokens])
    writer.add_token_types(kinds)
    lines = (checkpoint / "merges.txt").read_text(encoding="utf-8").split("\n")
    writer.add_token_merges([line for line in lines if line and not line.startswith("#version")])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(end)


def silence(llama_cpp: Any) -> None:
    """Turn off llama.cpp's own log on standard error."""
    nothing = llama_cpp.llama_log_callback(lambda level, text, data: None)
    CALLBACKS.append(nothing)
    llama_cpp.llama_log_set(nothing, ctypes.c_void_p(0))


class LlamaCppModel:
    """A GPT-2 loaded by llama.cpp; answers requests greedily."""

    def __init__(
        self, model: Path, precision: str, threads: int, settings: LlamaCppSettings
    ) -> None:
        import llama_cpp

        self._lib, self._threads, self._settings = llama_cpp, threads, settings
        silence(llama_cpp)
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(model).encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"{model}: llama.cpp cannot load it")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(vocabulary)
        system = llama_cpp.llama_print_system_info().decode().strip(" |")
        versions = {"llama-cpp-python": metadata.version("llama-cpp-python")}
        self.ready = Ready("cpu", precision, versions, [f"llama.cpp is built with {system}"])
        self._contexts: dict[tuple[int, int], Any] = {}  # by sequences and positions they hold
        self._context: Any = None
        self._lengths: list[int] = []

    def respond(self, prompts: list[Tokens], steps: int) -> Answer:
        rows, length = len(prompts), max(map(len, prompts))
        room = rows, length + steps
        if room not in self._contexts:
            self._contexts[room] = self._new_context(*room)
        self._context = self._contexts[room]  # used again, so that its memory is warm
        self._batch = TokenBatch(self._lib, rows * length)
        try:
            return greedy(prompts, steps, self._prefill, self._step)
        finally:
            self._batch.free()

    def _prefill(self, prompts: Sequence[Tokens]) -> Tokens:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        self._lengths = list(map(len, prompts))
        for row, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                self._batch.add(token, position, row, position == len(prompt) - 1)
        return self._decode(self._batch)

    def _step(self, tokens: Tokens) -> Tokens:
        self._batch.clear()
        for row, token in enumerate(tokens):
            self._batch.add(token, self._lengths[row], row, True)
            self._lengths[row] += 1
        return self._decode(self._batch)

    def _decode(self, batch: TokenBatch) -> Tokens:
        """The most likely token after each position of the batch with logits."""
        import numpy as np

        if code := self._lib.llama_decode(self._context, batch.batch):
            raise RuntimeError(f"llama_decode failed with code {code}")
        rows = batch.wanted
        logits = self._lib.llama_get_logits(self._context)
        values = np.ctypeslib.as_array(logits, shape=(rows, self._n_vocab))
        return [int(row.argmax()) for row in values]

    def _new_context(self, rows: int, length: int) -> Any:
        """A context for `rows` sequences of `length` positions."""
        params = self._lib.llama_context_default_params()
        params.n_seq_max = rows
        # Every sequence has a cache of its own, a multiple of 256 positions.
        params.n_ctx = rows * (-(-length // 256) * 256)
        params.n_batch = max(rows * length, 512)
        params.n_ubatch = min(self._settings.ubatch, params.n_batch)
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = self._settings.flash
        params.type_k = params.type_v = KV_TYPES[self._settings.kv]
        params.no_perf = True
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"llama.cpp cannot make a context of {rows} times {length}")
        return context


class TokenBatch:
    """A `llama_batch` that grows a token at a time."""

    def __init__(self, lib: Any, capacity: int) -> None:
        self._lib = lib
        self.batch = lib.llama_batch_init(capacity, 0, 1)
        self.wanted = 0

    def clear(self) -> None:
        self.batch.n_tokens = self.wanted = 0

    def add(self, token: int, position: int, sequence: int, logits: bool) -> None:
        b, i = self.batch, self.batch.n_tokens
        b.token[i], b.pos[i], b.logits[i] = token, position, logits
        b.n_seq_id[i], b.seq_id[i][0] = 1, sequence
        b.n_tokens += 1
        self.wanted += logits

    def free(self) -> None:
        self._lib.llama_batch_free(self.batch)


SETTINGS, MODEL = LlamaCppSettings, LlamaCppModel  # for `run.py`
