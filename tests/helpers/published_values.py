"""What Transformers makes of the checkpoints of `published.py`, as `published.npz` holds it.

    python tests/helpers/published.py FOLDER
    python tests/helpers/published_values.py FOLDER tests/exporter/published.npz

The second one needs torch and transformers.

In float32, of each model: the ids of its text, the ids and text that greedy decoding adds to them,
the bits of surprisal of the text, and the hidden states [layers + 1, ids, width].
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

NEW = 8


def tokenizer_of(folder: Path) -> Any:
    if (folder / "vocab.txt").exists():
        return transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    if (folder / "tokenizer.json").exists():
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return transformers.GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


@torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
def values(folder: Path) -> dict[str, Any]:
    tokenizer = tokenizer_of(folder)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    text = (folder / "text.txt").read_text(encoding="utf-8")
    ids = tokenizer(text)["input_ids"]
    every = list(ids)
    for _ in range(NEW):  # uncached, and without a rule of `generate`
        every.append(int(model(torch.tensor([every])).logits[0, -1].argmax()))
    start = tokenizer.convert_tokens_to_ids(tokenizer.cls_token or "<|endoftext|>")
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([[start, *plain[:-1]]])).logits[0]
    rows = torch.arange(len(plain)), torch.tensor(plain)
    states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return {
        "ids": np.array(ids),
        "greedy": np.array(every[len(ids) :]),
        "text": np.array(tokenizer.decode(every)[len(tokenizer.decode(ids)) :]),
        "bits": (-torch.log_softmax(logits, -1)[rows] / math.log(2)).numpy(),
        "hidden": torch.stack(states)[:, 0].numpy(),
    }


if __name__ == "__main__":
    found = {
        f"{folder.name}/{name}": value
        for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir())
        for name, value in values(folder).items()
    }
    found["versions"] = np.array(f"transformers {transformers.__version__}, {torch.__version__}")
    np.savez_compressed(sys.argv[2], **found)
