"""How far a bundle may be from its checkpoint: limits per precision, beyond which no bundle is
published.

A gate has to fail a wrong graph and to pass honest rounding, whatever the weights and the text: a
fine-tune meets English that it never saw, random weights meet anything. So its limits are a few
times what rounding does to weights as they begin and as training leaves them (the demo's), and they
are no promise of quality. That is tested on a text that the model knows.

- Logits tell little of weights as they begin, where every token is about as likely as another, and
  `perplexity` nothing. What a layer adds to the hidden states (`added`) tells there: a wrong matrix
  makes a difference of 0.3 to 1.2, rounding to 8 bits one of 0.04 at most, to 4 bits 0.3 at most.
- Nothing that grows with the logits counts on a text that the model does not know (it reads it no
  better than by the frequencies of its tokens, `Loss.known`): a model as sharp as a chess player is
  on English loses many nats to an honest rounding. There `tempered` takes the place of `kl`: its
  logits deviate by 1 at most, so it depends on the share that they are off by.
- On a text that the model would write itself, `kl` is what its perplexity loses (exp(kl) times as
  much). On another text perplexity moves besides, in either direction, since unlikely tokens are
  where logits are least exact. What chance does to so few tokens is therefore not counted
  (`Loss.excess`), and a gain counts as a loss does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """The most that a precision may be off.

    `largest`: the largest difference of logits, in deviations of TensorFlow's. `tempered`: the
    mean divergence in nats of logits that deviate by 1 at most. `added`: the relative difference of
    what any layer adds to the hidden states. And on a text that the model knows, `kl`: the mean
    divergence as it is; `perplexity`: the change as a share of TensorFlow's, beyond what chance
    does to a text of that length.
    """

    largest: float
    tempered: float
    kl: float
    perplexity: float
    added: float


GATES = {
    "fp32": Gate(largest=1e-3, tempered=1e-9, kl=1e-6, perplexity=0.001, added=1e-3),
    "fp16": Gate(largest=0.1, tempered=3e-5, kl=1e-3, perplexity=0.001, added=0.02),
    "int8": Gate(largest=3.0, tempered=0.01, kl=0.1, perplexity=0.05, added=0.2),
    "int4": Gate(largest=5.0, tempered=0.12, kl=0.5, perplexity=0.25, added=0.6),
}
