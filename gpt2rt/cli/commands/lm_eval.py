"""`gpt2rt lm-eval`: the command of lm-evaluation-harness, with the model `gpt2rt` registered."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import typer

from gpt2rt.cli.output.terminal import unguarded
from gpt2rt.errors import missing_extra


def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness on a bundle; everything after `lm-eval` is the harness's own.

    Examples:

      gpt2rt lm-eval ls tasks

      gpt2rt lm-eval run --model gpt2rt --model_args model=117M-int8 --tasks lambada_openai

      gpt2rt lm-eval run --model gpt2rt --model_args model=demo --tasks wikitext --limit 1
    """
    if not context.args:
        print(context.get_help())
        return
    if find_spec("lm_eval") is None:
        raise missing_extra("lm-eval", "the harness is not installed")
    from lm_eval.__main__ import cli_evaluate

    import gpt2rt_evals.harness  # noqa: F401  (registers the model)

    sys.argv = ["gpt2rt lm-eval", *context.args]
    # The harness draws bars of its own, with controls.
    sys.stdout, sys.stderr = unguarded(sys.stdout), unguarded(sys.stderr)
    cli_evaluate()
