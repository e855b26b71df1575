"""The calls of the CUDA graph that a step is made of, and their shapes, of which there are few."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2rt.engine.slots import Part

NARROWEST, PIECE = 16, 128  # tokens of the least width of prompts, and the step between wide ones
A_CALL = 2048  # tokens that are read in the time that the launches of a call take
TOTALS, MANY = (256, 512), 32  # total lengths of decode steps of fewer than so many rows


def power_of_two(count: int) -> int:
    """The least power of two that is `count` or more."""
    return 1 << max(0, count - 1).bit_length()


def padded(width: int) -> int:
    """The width of a call that reads prompts of up to `width` tokens, so that there are few."""
    if width > PIECE:
        return -(-width // PIECE) * PIECE
    return power_of_two(max(NARROWEST, width))


def finely_padded(size: int) -> int:
    """A size of calls that are kept and not captured, which may be more: an eighth above at most,
    or `NARROWEST`."""
    step = max(NARROWEST, power_of_two(size) // 8)
    return -(-size // step) * step


def total(rows: int, length: int, n_ctx: int) -> int:
    """The total length with which a decode step runs, where the longest sequence has `length`.

    A captured graph keeps it. The least possible is fastest, but with many rows only the greatest
    is used, so that there are few graphs.
    """
    fitting = [most for most in TOTALS if length <= most < n_ctx] if rows < MANY else []
    return min([*fitting, n_ctx])


def single(part: Part) -> bool:
    """Whether a part is one token whose logits are wanted, as in a decode step."""
    return len(part.tokens) == part.wanted == 1


def worthwhile(lengths: Sequence[int]) -> bool:
    """Whether prompts of these lengths are better read by one call, padded to the longest."""
    tokens = sum(lengths)
    return len(lengths) * padded(max(lengths)) - tokens <= tokens + A_CALL


def calls_of(parts: Sequence[Part], together: bool = True) -> list[list[int]]:
    """The parts, by their numbers, that each call of the graph runs: first those of a decode step.

    Prompts from their beginnings in consecutive slots run side by side, unless not `together`, and
    as long as padding does not cost more than another call; all others one by one.
    """
    steps = [number for number, part in enumerate(parts) if single(part)]
    runs: list[list[int]] = []
    for number, part in enumerate(parts):
        if single(part):
            continue
        before = parts[runs[-1][-1]] if runs and together else None
        if (
            before
            and before.start == part.start == 0
            and part.slot == before.slot + 1
            and worthwhile([len(parts[n].tokens) for n in (*runs[-1], number)])
        ):
            runs[-1].append(number)
        else:
            runs.append([number])
    return [steps, *runs] if steps else runs
