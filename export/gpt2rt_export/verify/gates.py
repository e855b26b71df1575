"""Limits for how far a bundle may be from its checkpoint; beyond them none is published.

A gate must reject a wrong graph and accept plain rounding, whatever the weights and the text: a
fine-tune may read English that it never saw, random weights read anything. So the limits are a few
times the effect of rounding on random weights and on trained ones (the demo's), and promise no
quality; quality is tested on a text of the model's own kind.

- Random weights make every token about as likely as another: logits show little, and `perplexity`
  nothing. What a layer adds to the hidden states (`added`) does: a wrong matrix makes a difference
  of 0.3 to 1.2, rounding to 8 bits at most 0.04, to 4 bits at most 0.3.
- Figures that grow with the logits do not count on a text that the model does not know, one that it
  predicts no better than the frequencies of its tokens do (`Loss.known`): a confident model of
  chess games loses many nats to rounding on English. There `tempered` takes the place of `kl`: its
  logits deviate by 1 at most, so that it depends on their relative error.
- On a text that the model would generate itself, perplexity grows by the factor exp(kl). On another
  text it also changes in either direction, since the logits of unlikely tokens are least exact.
  Therefore the chance of so few tokens is left out (`Loss.excess`), and a gain counts as a loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import EMBED
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.providers import CUDA
from gpt2rt.engine.runtime import SLOTS
from gpt2rt.errors import BadBundle


@dataclass(frozen=True, slots=True)
class Gate:
    """The largest errors that a precision may have.

    `largest`: the largest difference of logits, in standard deviations of TensorFlow's.
    `tempered`: the mean divergence in nats of logits that deviate by 1 at most. `added`: the
    relative difference of what any layer adds to the hidden states. And on a text that the model
    knows, `kl`: the mean divergence in nats; `perplexity`: its change as a share of TensorFlow's,
    beyond chance.
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


def precision_on(precision: str, provider: str) -> str:
    """The precision whose gate a bundle of `precision` has on a provider."""
    return PRECISIONS[precision].on_cuda if provider == CUDA else precision


def check_known(bundle: Bundle) -> None:
    """Raise `BadBundle` for a bundle of an unknown kind, or one without token embedding."""
    manifest = bundle.manifest
    if EMBED not in manifest.files:
        raise BadBundle(f"{bundle.directory}: has no {EMBED} to verify; {bundle.remedy}")
    if manifest.precision not in GATES or manifest.graph not in SLOTS:
        kind = f"{manifest.precision}, {manifest.graph}"
        raise BadBundle(f"{bundle.directory}: of an unknown kind ({kind}); upgrade gpt2rt")
