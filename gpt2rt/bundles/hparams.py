"""The shape of a GPT-2: the numbers of OpenAI's `hparams.json`, and options of later variants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gpt2rt.errors import BadCheckpoint, reason

SHAPE = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
CHOICES = ("scale_attn", "scale_attn_by_layer", "tied")
ACTIVATIONS = ("gelu_new", "gelu", "quick_gelu", "relu", "silu", "tanh", "sigmoid")


@dataclass(frozen=True, slots=True)
class HParams:
    """The shape of a model. Raises `BadCheckpoint` for values that describe no GPT-2.

    Every GPT-2 has the first five numbers; the defaults of the rest are those of OpenAI's models.
    `n_inner` is the width of the MLP (None: 4 * n_embd); `epsilon` is that of every layer norm;
    `activation` is one of `ACTIVATIONS`, as Transformers names them; `scale_attn` divides the
    attention scores by the square root of the head's width, `scale_attn_by_layer` also by the
    layer's number, counted from 1; `tied` uses the token embedding as lm_head, which otherwise is a
    variable of its own, `model/lm_head`.
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
        """Width of a head in the KV cache: `head_width` rounded up to a multiple of 16.

        The kernels add up 16 numbers side by side; the fused graph pads with zeros.
        """
        return -(-self.head_width // 16) * 16

    @property
    def inner_width(self) -> int:
        """Width of the MLP's hidden layer."""
        return self.n_inner or 4 * self.n_embd

    @property
    def head_variable(self) -> str:
        """The name, less `model/`, of the variable [n_vocab, n_embd] with the lm_head's weights."""
        return "wte" if self.tied else "lm_head"

    def attention_scale(self, layer: int) -> float:
        """The factor of the attention scores in a layer, counted from 0."""
        scale = self.head_width**-0.5 if self.scale_attn else 1.0
        return scale / (layer + 1) if self.scale_attn_by_layer else scale

    def past_shape(self, batch: int, length: int) -> tuple[int, ...]:
        """Shape of OpenAI's combined `past` and `present`: keys, then values on axis 2."""
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
        """All fields by name, as JSON takes them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str) -> HParams:
        """Make hparams from parsed JSON; other keys are ignored.

        `origin` is the file that errors name. Raises `BadCheckpoint`.
        """
        missing = sorted(set(SHAPE) - set(values))
        if missing:
            raise BadCheckpoint(f"{origin}: {', '.join(missing)} missing")
        try:
            return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        except BadCheckpoint as error:
            raise BadCheckpoint(f"{origin}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> HParams:
        """Read OpenAI's `hparams.json`. Raises `BadCheckpoint`."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadCheckpoint(f"{path}: no such file; a GPT-2 checkpoint has one") from None
        except (OSError, ValueError, RecursionError) as error:
            raise BadCheckpoint(f"{path}: cannot be read as JSON ({reason(error)})") from None
        if not isinstance(values, dict):
            raise BadCheckpoint(f"{path}: holds {type(values).__name__}, not an object of numbers")
        return cls.from_dict(values, str(path))
