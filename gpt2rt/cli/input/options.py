"""Options that several commands share, and what they make of them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import typer

from gpt2rt import Defaults, SamplingParams, Stopping
from gpt2rt.cli import completion
from gpt2rt.cli.input import fetch
from gpt2rt.cli.input.typed import decoded_option, typed
from gpt2rt.errors import InvalidSetting, MissingExtra, missing_extra
from gpt2rt.model import PREFIX_BYTES

MOST_SAMPLES = 1_000_000

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A name (117M-int8; 117M: its best precision; demo), a bundle's directory, or the URL "
        "of a packed one. "
        "Without it: $GPT2RT_MODEL, else an exported 117M, else the embedded demo.",
        show_default=False,
        autocompletion=completion.model_names,
    ),
]
Samples = Annotated[
    int, typer.Option("--nsamples", "-n", help="Samples, made side by side; 0: without end.")
]
ShowProbs = Annotated[
    bool,
    typer.Option(
        "--show-probs", help="Colour each token by how likely it was; without colours: in figures."
    ),
]
ThreadCount = Annotated[
    int | None,
    typer.Option("--threads", help="Threads of the model.", show_default="the physical cores"),
]
Special = Annotated[
    bool | None,
    typer.Option(
        "--special/--no-special",
        help="Whether control tokens in a text, such as <|user|>, are one token or plain text.",
        show_default="one token where a fine-tune has its own, else text",
    ),
]
Provider = Annotated[
    str,
    typer.Option(
        help="What computes: cpu, cuda, openvino, webgpu, tensorrt-rtx, directml or coreml, with a "
        "device behind it as in openvino:gpu; auto: the fastest that `gpt2rt bench --choose` "
        "found, else CUDA where it is, but for fp32, which it would round.",
        autocompletion=completion.providers,
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        help="What proposes tokens to a text made alone: a smaller model of the same tokenizer, or "
        "`lookup` for what the text said before. The text stays the same.",
        show_default=False,
        rich_help_panel="Speed",
    ),
]
PrefixCache = Annotated[
    int,
    typer.Option(
        help="Megabytes kept of what prompts begin with; 0 keeps nothing.",
        rich_help_panel="Speed",
    ),
]
PREFIX_MEGABYTES = PREFIX_BYTES >> 20


@dataclass(frozen=True, slots=True)
class _Setting:
    """An option of generation: its type, its default, what is said of it."""

    type: Any
    default: Any
    option: Any


def _option(panel: str, *names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def _texts(panel: str, help: str) -> _Setting:
    """An option that holds texts and may be repeated."""
    option = _option(panel, help=help, show_default=False, callback=decoded_option)
    return _Setting(list[str], [], option)


KEYWORD = inspect.Parameter.KEYWORD_ONLY
DRAW, END = "Sampling", "Stopping"
SETTINGS: dict[str, _Setting] = {
    "temperature": _Setting(
        float | None,
        None,
        _option(DRAW, help="Divides the logits; 0 is greedy.", show_default="1.0"),
    ),
    "greedy": _Setting(bool, False, _option(DRAW, "--greedy", help="Always the likeliest token.")),
    "top_k": _Setting(int, 0, _option(DRAW, help="Draw from the k likeliest tokens; 0: from all.")),
    "top_p": _Setting(
        float, 1.0, _option(DRAW, help="Draw from the likeliest tokens that sum to p.")
    ),
    "min_p": _Setting(
        float, 0.0, _option(DRAW, help="Draw from tokens this likely beside the likeliest.")
    ),
    "typical_p": _Setting(
        float, 1.0, _option(DRAW, help="Draw from the most typical tokens that sum to p.")
    ),
    "repetition_penalty": _Setting(
        float, 1.0, _option(DRAW, help="Above 1: against tokens that prompt or text have.")
    ),
    "frequency_penalty": _Setting(
        float, 0.0, _option(DRAW, help="Off a token's logit each time the new text has it.")
    ),
    "presence_penalty": _Setting(
        float, 0.0, _option(DRAW, help="Off a token's logit once the new text has it.")
    ),
    "no_repeat_ngram": _Setting(
        int, 0, _option(DRAW, help="No n tokens in a row come twice; 0: they may.")
    ),
    "logit_bias": _texts(
        DRAW, "TOKEN=BIAS, added to its logit; a token is an id or a text. Repeatable."
    ),
    "bad_word": _texts(DRAW, "A text never drawn. Repeatable."),
    "seed": _Setting(
        int | None,
        None,
        _option(DRAW, help="Makes the run repeatable.", show_default="a fresh one"),
    ),
    "compat": _Setting(
        Literal["openai"] | None,
        None,
        _option(
            DRAW,
            help="`openai`: the top-p rule and the defaults of OpenAI's scripts (no end at "
            "<|endoftext|>, length n_ctx, with a prompt n_ctx / 2).",
            show_default=False,
        ),
    ),
    "model_defaults": _Setting(
        bool,
        False,
        _option(
            DRAW,
            "--model-defaults",
            help="What is not given here is as the model's makers chose it (`models info`).",
        ),
    ),
    "length": _Setting(
        int | None,
        None,
        _option(END, help="New tokens at most.", show_default="what the context allows"),
    ),
    "min_length": _Setting(
        int, 0, _option(END, help="New tokens before <|endoftext|> or a stop token may come.")
    ),
    "stop": _texts(END, "A text that ends a sample before it. Repeatable."),
    "stop_token": _Setting(
        list[int],
        [],
        _option(END, help="An id that ends a sample. Repeatable.", show_default=False),
    ),
    "end_of_text": _Setting(
        bool | None,
        None,
        _option(
            END,
            "--end-of-text/--no-end-of-text",
            help="Whether <|endoftext|> ends a sample.",
            show_default="it does",
        ),
    ),
    "overflow": _Setting(
        Literal["stop", "slide"],
        "stop",
        _option(END, help="At the end of the context: stop, or slide on."),
    ),
}


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options of `SETTINGS`; it takes `params` and `stopping` made of them, and
    has `escape`, by which their texts are read.

    So every command that generates has the same options, and what they mean stands once.
    """
    signature = inspect.signature(command, eval_str=True)
    made = ("context", "params", "stopping")
    own = [p for p in signature.parameters.values() if p.name not in made]
    own.insert(0, inspect.Parameter("context", KEYWORD, annotation=typer.Context))
    shared = [
        inspect.Parameter(
            name,
            KEYWORD,
            default=setting.default,
            annotation=Annotated[setting.type, setting.option],
        )
        for name, setting in SETTINGS.items()
    ]
    own = [p.replace(kind=KEYWORD) for p in own]

    takes_context = "context" in signature.parameters

    @wraps(command)
    def run(**given: Any) -> None:
        settings = {name: given.pop(name) for name in SETTINGS}
        settings["escape"] = given["escape"]
        context = given["context"] if takes_context else given.pop("context")
        if settings.pop("model_defaults"):
            settings |= model_defaults(context, given["model"])
        command(**given, params=sampling_params(settings), stopping=stopping(settings))

    run.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
    return run


def model_defaults(context: typer.Context, model: str | None) -> dict[str, float]:
    """Settings of the model's makers, less those that the command line gives."""
    bundle = fetch.find(model)
    named = dict(Defaults.read(bundle).named)
    if not named:
        print(f"gpt2rt: {bundle.name} has no defaults of its own", file=sys.stderr)
    given = {name for name in SETTINGS if is_given(context, name)}
    if "greedy" in given:
        given.add("temperature")
    return {name: value for name, value in named.items() if name not in given}


def is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def sampling_params(settings: dict[str, Any]) -> SamplingParams:
    """Raises `InvalidSetting` for values that mean nothing or exclude each other."""
    temperature, greedy = settings["temperature"], settings["greedy"]
    if greedy and temperature:
        raise InvalidSetting(f"--greedy and --temperature {temperature} exclude each other")
    if temperature is None:
        temperature = 0.0 if greedy else 1.0
    plain = {field.name: settings[field.name] for field in fields(SamplingParams)
             if field.name in settings}  # fmt: skip
    bias = tuple(_bias(text, settings["escape"]) for text in settings["logit_bias"])
    words = [typed(word, settings["escape"]) for word in settings["bad_word"]]
    made = {"temperature": temperature, "logit_bias": bias, "bad_words": words}
    return SamplingParams(**{**plain, **made})


def _bias(text: str, escape: bool) -> tuple[int | str, float]:
    token, equals, bias = text.rpartition("=")
    try:
        value = float(bias)
    except ValueError:
        equals = ""
    if not (token and equals):
        raise InvalidSetting(f"--logit-bias is TOKEN=BIAS, such as 50256=-100, not {text!r}")
    return (int(token) if token.isascii() and token.isdigit() else typed(token, escape)), value


def stopping(settings: dict[str, Any]) -> Stopping:
    """Raises `InvalidSetting` for values that mean nothing."""
    end_of_text = settings["end_of_text"]
    if end_of_text is None:
        end_of_text = settings["compat"] is None
    strings = [typed(text, settings["escape"]) for text in settings["stop"]]
    return Stopping(
        settings["length"], strings, settings["stop_token"], end_of_text, settings["overflow"]
    )


def check_samples(nsamples: int) -> None:
    """Raises `InvalidSetting` before a model is loaded in vain."""
    if not 0 <= nsamples <= MOST_SAMPLES:
        raise InvalidSetting(
            f"nsamples must be 1 to {MOST_SAMPLES:,}, or 0 for no end, not {nsamples}"
        )


def check_extra(what: str, needed: Sequence[str]) -> None:
    """Raises `MissingExtra` naming the modules that `what` needs and that are not installed."""
    missing = [name for name in (*needed, "gpt2rt_export") if find_spec(name) is None]
    if not missing:
        return
    needs = f"{what} needs {', '.join(missing)}"
    if "tensorflow" in missing and sys.version_info >= (3, 14):
        raise MissingExtra(
            f"{needs}: TensorFlow has no wheels for this Python; export with Python 3.11 to 3.13, "
            "the bundle then runs anywhere"
        )
    raise missing_extra("export", needs)
