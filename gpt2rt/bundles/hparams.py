"""What fixes the shape of a GPT-2: five numbers under the names of OpenAI's `hparams.json`, and the
choices by which later variants differ from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gpt2rt.errors import BadCheckpoint

SHAPE = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
CHOICES = ("scale_attn", "scale_attn_by_layer", "tied")
ACTIVATIONS = ("gelu_new", "gelu", "quick_gelu", "relu", "silu", "tanh", "sigmoid")


@dataclass(frozen=True, slots=True)
class HParams:
    """Shape of a model. Raises `BadCheckpoint` for values that describe no GPT-2.

    The five numbers are every GPT-2's; the defaults of the rest are OpenAI's model. `n_inner` is
    the width of the MLP (None: 4 * n_embd); `epsilon` is every layer norm's; `activation` is one of
    `ACTIVATIONS`, under Transformers' names; `scale_attn` divides attention's scores by the root of
    the head's width, `scale_attn_by_layer` besides by the layer's number, from 1; `tied` makes the
    lm_head the token embedding, otherwise it is a variable of its own, `model/lm_head`.
    """

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int
    n_inner: int | None = None
    epsilon: float = 1e-5
    activation: str = "gelu_new"
    scale_attn: bool = True
    scale_attn_by_layer: bool = False
    tied: bool = True

    def __post_init__(self) -> None:
        for name in SHAPE if self.n_inner is None else (*SHAPE, "n_inner"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise BadCheckpoint(f"{name} must be a positive whole number, not {value!r}")
        for name in CHOICES:
            if type(getattr(self, name)) is not bool:
                raise BadCheckpoint(f"{name} must be true or false, not {getattr(self, name)!r}")
        if type(self.epsilon) is not float or not 0 < self.epsilon < 1:
            raise BadCheckpoint(f"epsilon must be between 0 and 1, not {self.epsilon!r}")
        if self.activation not in ACTIVATIONS:
            raise BadCheckpoint(
                f"activation {self.activation!r} cannot be done; there are {', '.join(ACTIVATIONS)}"
            )
        if self.n_embd % self.n_head:
            raise BadCheckpoint(
                f"n_embd {self.n_embd} cannot be divided among n_head {self.n_head} heads"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head; 64 in every released model."""
        return self.n_embd // self.n_head

    @property
    def kv_width(self) -> int:
        """Width of a head in the KV cache: ONNX Runtime's attention wants a multiple of 8.

        Where that is more than `head_width`, the fused graph keeps zeros in the rest.
        """
        return -(-self.head_width // 8) * 8

    @property
    def inner_width(self) -> int:
        """Width of the MLP between its two products."""
        return self.n_inner or 4 * self.n_embd

    @property
    def head_variable(self) -> str:
        """The variable [V,D] by which the lm_head multiplies, without the `model/` in front."""
        return "wte" if self.tied else "lm_head"

    def attention_scale(self, layer: int) -> float:
        """What attention's scores are multiplied by in a layer, counted from 0."""
        scale = self.head_width**-0.5 if self.scale_attn else 1.0
        return scale / (layer + 1) if self.scale_attn_by_layer else scale

    def past_shape(self, batch: int, length: int) -> tuple[int, ...]:
        """Shape of OpenAI's combined `past` and `present`: k then v on axis 2."""
        return (batch, self.n_layer, 2, self.n_head, length, self.head_width)

    def variables(self) -> dict[str, tuple[int, ...]]:
        """Every checkpoint variable and its shape, in the checkpoint's names and order."""
        d = self.n_embd
        shapes: dict[str, tuple[int, ...]] = {
            "model/wte": (self.n_vocab, d),
            "model/wpe": (self.n_ctx, d),
        }
        for i in range(self.n_layer):
            block = f"model/h{i}"
            for name, n_in, n_out in (
                ("attn/c_attn", d, 3 * d),
                ("attn/c_proj", d, d),
                ("mlp/c_fc", d, self.inner_width),
                ("mlp/c_proj", self.inner_width, d),
            ):
                shapes[f"{block}/{name}/w"] = (1, n_in, n_out)
                shapes[f"{block}/{name}/b"] = (n_out,)
            for name in ("ln_1", "ln_2"):
                shapes[f"{block}/{name}/g"] = (d,)
                shapes[f"{block}/{name}/b"] = (d,)
        shapes["model/ln_f/g"] = (d,)
        shapes["model/ln_f/b"] = (d,)
        if not self.tied:
            shapes["model/lm_head"] = (self.n_vocab, d)
        return shapes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str) -> HParams:
        """Checked values out of parsed JSON; `origin` is the file that errors should name."""
        missing = sorted(set(SHAPE) - set(values))
        if missing:
            raise BadCheckpoint(f"{origin}: {', '.join(missing)} missing")
        try:
            return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        except BadCheckpoint as error:
            raise BadCheckpoint(f"{origin}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> HParams:
        """Read OpenAI's `hparams.json`."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadCheckpoint(f"{path}: no such file; a GPT-2 checkpoint has one") from None
        except (OSError, ValueError, RecursionError) as error:
            raise BadCheckpoint(f"{path}: cannot be read as JSON ({error})") from None
        if not isinstance(values, dict):
            raise BadCheckpoint(f"{path}: holds {type(values).__name__}, not an object of numbers")
        return cls.from_dict(values, str(path))
