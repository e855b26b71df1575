"""Greedy text from a bundle, by ONNX Runtime alone: python bundle.py BUNDLE TEXT COUNT"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime as ort
import regex

bundle, text, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

# Bytes as printable characters, and the merges of byte-pair encoding.
plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
others = [byte for byte in range(256) if byte not in plain]
symbol = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
ids = json.loads((bundle / "encoder.json").read_text("utf-8"))
merges = (bundle / "vocab.bpe").read_text("utf-8").split("\n")[1:]
rank = {tuple(merge.split(" ")): i for i, merge in enumerate(merges)}
WORD = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def encoded(word: str) -> list[int]:
    parts = [symbol[byte] for byte in word.encode()]
    while pairs := [pair for pair in pairwise(parts) if pair in rank]:
        at = [*pairwise(parts)].index(min(pairs, key=lambda pair: rank[pair]))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [ids[part] for part in parts]


session = ort.InferenceSession(bundle / "model.portable.onnx")
results = [output.name for output in session.get_outputs()]  # logits, new keys and values
pasts = {i.name: i.shape for i in session.get_inputs() if i.name.startswith("past_")}
held = {name: np.zeros((1, shape[1], 1024, shape[3]), np.float32) for name, shape in pasts.items()}
tokens = [token for word in regex.findall(WORD, text) for token in encoded(word)]
length, new = 0, tokens
while len(tokens) < count and ids.get("<|endoftext|>") != tokens[-1]:
    feeds = {
        "X": np.array([new], np.int32),
        "position": np.arange(length, length + len(new), dtype=np.int32)[None],
        "lengths": np.array([[length]], np.int32),  # how many positions of the past count
        "rows": np.array([len(new) - 1], np.int32),  # after which tokens logits are wanted
    }
    logits, *made = session.run(results, feeds | held)
    for past, values in zip(held.values(), made, strict=True):
        past[:, :, length : length + len(new)] = values
    length, new = length + len(new), [int(logits[0].argmax())]
    tokens += new
byte = {character: number for number, character in symbol.items()}
words = {number: word for word, number in ids.items()}
text = bytes(byte[c] for token in tokens for c in words[token]).decode(errors="replace")
print(json.dumps({"tokens": tokens, "text": text}))
