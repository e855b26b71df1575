"""Measures the time from the start of a process to its first token, in new processes each round.

The programs are the shortest that a user could write. gpt2rt's reads text; a peer is given the
tokens of the same text, since it may have no tokenizer, which saves it time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import InvalidSetting
from gpt2rt.text.tokenizers import read_tokenizer
from gpt2rt_bench.subject import SubjectFailed

if TYPE_CHECKING:  # it needs the extra `export`
    from gpt2rt_bench.peers import PeerSubject

OURS = """
import sys
from gpt2rt import GPT2, SamplingParams, Stopping
model = GPT2.load(sys.argv[1], threads=int(sys.argv[2]), provider=sys.argv[3])
text = model.generate(sys.argv[4], SamplingParams(temperature=0), Stopping(length=1))
print(*text.tokens, flush=True)
"""

PAUSE = 0.2  # seconds between two processes
TEXT = "It was a day like any other, and nobody in the village expected anything of it. "


def program(bundle: Bundle, threads: int, provider: str, text: str) -> list[str]:
    """The command of gpt2rt's program: it prints the token after `text` and ends."""
    return [sys.executable, "-c", OURS, str(bundle.directory), str(threads), provider, text]


def programs(
    bundles: Mapping[str, Bundle],
    peers: Sequence[PeerSubject],
    length: int,
    threads: int,
    provider: str,
) -> dict[str, list[str]]:
    """Name -> command of the programs for `measure`: gpt2rt's for every bundle, and its peers'.

    `length` is the prompt's, in tokens. Raises `InvalidSetting` where there is no such text.
    """
    found = {}
    for name, bundle in bundles.items():
        text, tokens = prompt(bundle, length)
        found[f"{name}: gpt2rt"] = program(bundle, threads, provider, text)
        for peer in peers:
            if peer.bundle == bundle:
                found[f"{name}: {peer.name}"] = peer.first_token(threads, tokens)
    return found


def prompt(bundle: Bundle, length: int) -> tuple[str, list[int]]:
    """A text of exactly `length` tokens and its tokens. Raises `InvalidSetting`."""
    tokenizer = read_tokenizer(bundle.directory)
    plain = TEXT * length
    for end in range(length, len(plain)):
        tokens = tokenizer.encode(plain[:end])
        if len(tokens) == length:
            return plain[:end], list(tokens)
    raise InvalidSetting(f"{bundle.name}: no text of {length} tokens found; choose another length")


def measure(
    programs: Mapping[str, Sequence[str]],
    rounds: int,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, list[float]]:
    """Seconds until each program has printed its first token, a list over `rounds` rounds.

    A round before them, not counted, fills the page cache; in it gpt2rt hashes the weights, which
    it does once. Raises `SubjectFailed`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, command in programs.items():
            time.sleep(PAUSE)
            taken = first_token(name, command)
            if number:
                seconds[name].append(taken)
            advance(1)
    return seconds


def first_token(name: str, command: Sequence[str]) -> float:
    """Seconds from the start of a process to the token it prints. Raises `SubjectFailed`."""
    began = time.perf_counter()
    try:
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as error_output,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=error_output, text=True, encoding="utf-8"
            ) as process,
        ):
            assert process.stdout is not None
            # Whatever else a library prints goes before.
            token = next((line for line in process.stdout if line.strip().isdecimal()), "")
            taken = time.perf_counter() - began
            process.communicate()
            error_output.seek(0)
            errors = error_output.read()
    except OSError as error:
        raise SubjectFailed(f"{name}: {command[0]}: {error.strerror}") from None
    if process.returncode or not token:
        last = (errors.strip().splitlines() or ["it printed nothing"])[-1]
        raise SubjectFailed(f"{name}: no first token ({last[:300]})")
    return taken
