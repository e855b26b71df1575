"""The bundle in lm-evaluation-harness: its answers are those of a plain loop over the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from command_line import Command
from gpt2rt import GPT2, Stopping
from gpt2rt.engine.slots import Part
from gpt2rt.errors import InvalidSetting, MissingExtra
from gpt2rt.sampling.params import SamplingParams
from models import SHARED, TINY, LargerWeights

GREEDY = SamplingParams(temperature=0)


def test_without_the_harness_the_command_names_the_extra(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2rt.cli.commands.lm_eval.find_spec", lambda name: None)
    assert 'pip install "gpt2rt[lm-eval]"' in command("lm-eval", "run").in_one_line()
    assert issubclass(MissingExtra, ImportError)


class TestHarness:
    @pytest.fixture
    def harness(self, tiny_models: dict[str, GPT2]) -> Any:
        pytest.importorskip("lm_eval", reason="lm-evaluation-harness (lm-eval) is not installed")
        from gpt2rt_evals.harness import HarnessModel

        directory = str(tiny_models["fp32"].bundle.directory)
        return HarnessModel(model=directory, threads=1, batch_size="3")

    @staticmethod
    def logprobs(model: GPT2, tokens: list[int]) -> np.ndarray[Any, Any]:
        """[n] -> natural log-probabilities [n, n_vocab] after each token, in float64."""
        slots = model.new_slots(1)
        logits = np.asarray(slots.step([Part(0, 0, tokens, len(tokens))]), np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        whole: np.ndarray[Any, Any] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return whole

    @staticmethod
    def requests(*arguments: Any) -> list[SimpleNamespace]:
        return [SimpleNamespace(args=args) for args in arguments]

    @pytest.mark.parametrize(
        ("context", "target"),
        [("ab cd", " ef"), ("", "abc"), ("x" * 100, " yz"), ("ab ", "c"), ("a\n", "é")],
    )
    def test_loglikelihood(
        self, harness: Any, tiny_models: dict[str, GPT2], context: str, target: str
    ) -> None:
        model = tiny_models["fp32"]
        spaces = context[len(context.rstrip()) :]
        stem, tail = context[: len(context) - len(spaces)], spaces + target
        whole = model.tokenizer.encode(stem + tail)
        first = len(model.tokenizer.encode(stem)) if context else 0
        if not context:
            whole, first = [model.tokenizer.end_of_text, *whole], 1
        count = len(whole) - first
        read = whole[-(TINY.n_ctx + 1) :]
        rows = self.logprobs(model, read[:-1])[-count:]
        wanted = sum(row[token] for row, token in zip(rows, read[-count:], strict=True))
        greedy = all(row.argmax() == t for row, t in zip(rows, read[-count:], strict=True))
        mates = self.requests((context, target), ("other", " text"), ("", "b"))
        found, *_ = harness.loglikelihood(mates, disable_tqdm=True)
        assert found[0] == pytest.approx(wanted, abs=1e-3)
        assert found[1] == greedy

    def test_the_greedy_continuation_is_greedy(
        self, harness: Any, tiny_models: dict[str, GPT2]
    ) -> None:
        model = tiny_models["fp32"]
        tokens = model.tokenizer.encode("ab cd")
        best = int(self.logprobs(model, tokens)[-1].argmax())
        pairs = [((), tokens, [best]), ((), tokens, [(best + 1) % TINY.n_vocab])]
        found = harness._loglikelihood_tokens(pairs, disable_tqdm=True)
        assert [greedy for _, greedy in found] == [True, False]

    @pytest.mark.parametrize("length", [1, TINY.n_ctx, TINY.n_ctx + 1, 3 * TINY.n_ctx + 5])
    def test_rolling(self, harness: Any, tiny_models: dict[str, GPT2], length: int) -> None:
        """The harness's own windows, one after the other."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        model = tiny_models["fp32"]
        text = "".join(chr(ord("a") + i * i % 23) for i in range(length))
        tokens = model.tokenizer.encode(text)
        wanted = 0.0
        for pair in get_rolling_token_windows(tokens, model.tokenizer.end_of_text, TINY.n_ctx, 1):
            context, target = make_disjoint_window(pair)
            rows = self.logprobs(model, (context + target)[:-1])[-len(target) :]
            wanted += sum(row[token] for row, token in zip(rows, target, strict=True))
        (found,) = harness.loglikelihood_rolling(self.requests((text,)), disable_tqdm=True)
        assert found == pytest.approx(wanted, rel=1e-5)

    def test_a_target_beyond_the_context_is_scored_whole(self, harness: Any) -> None:
        text = "abcdefg" * 20
        rolled = harness.loglikelihood_rolling(self.requests((text,)), disable_tqdm=True)
        scored = harness.loglikelihood(self.requests(("", text)), disable_tqdm=True)
        assert scored[0][0] == pytest.approx(rolled[0], rel=1e-6)

    def test_generate_until(self, harness: Any, tiny_models: dict[str, GPT2]) -> None:
        model = tiny_models["fp32"]
        whole = {text: model.generate(text, GREEDY, Stopping(8)).text for text in ("ab", "x y")}
        stop = whole["ab"][2:4]
        settings = {"until": [stop], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}
        pairs = [("ab", settings), ("x y", {"max_gen_toks": 8}), ("ab", {"max_gen_toks": 8})]
        found = harness.generate_until(self.requests(*pairs), disable_tqdm=True)
        assert found == [whole["ab"].split(stop)[0], whole["x y"], whole["ab"]]

    def test_samples_repeat_with_the_seed_and_differ_among_themselves(
        self, harness: Any, tiny_models: dict[str, GPT2]
    ) -> None:
        from gpt2rt_evals.harness import HarnessModel

        settings = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 12}
        asked = self.requests(*[("ab", settings)] * 8)
        place = str(tiny_models["fp32"].bundle.directory)
        other = HarnessModel(model=place, threads=1, batch_size=3, seed=5)
        found = [model.generate_until(asked, disable_tqdm=True) for model in (harness, other)]
        assert harness.generate_until(asked, disable_tqdm=True) == found[0]
        assert found[0] != found[1]
        assert len(set(found[0])) == 8

    def test_prompts_of_any_length(self, harness: Any) -> None:
        pairs = [("", {"max_gen_toks": 4}), ("long " * 60, {"max_gen_toks": 4})]
        assert len(harness.generate_until(self.requests(*pairs), disable_tqdm=True)) == 2

    def test_settings_that_would_be_ignored_are_errors(self, harness: Any) -> None:
        for settings in ({"num_beams": 4}, {"max_gen_toks": 1000}):
            with pytest.raises(InvalidSetting):
                harness.generate_until(self.requests(("a", settings)), disable_tqdm=True)

    def test_the_request_cache(self, harness: Any, tmp_path: Path) -> None:
        """What is in the cache is not asked of the model again; nor what a stopped run put in."""
        from lm_eval.api.model import CachingLM

        asked = self.requests(("ab", " cd"), ("ef", " gh"))
        cached = CachingLM(harness, str(tmp_path / "cache.db"))
        first = cached.loglikelihood(asked)
        harness.loglikelihood = None
        assert cached.loglikelihood(asked) == first

    def test_the_harness_by_its_own_command(
        self, harness: Any, tiny_models: dict[str, GPT2], tmp_path: Path, capfd: Any
    ) -> None:
        """A task of files, from the harness's command line to its results."""
        from gpt2rt.cli import main

        rows = [{"text": "ab cd ef", "word": " gh"}, {"text": "x", "word": " y z"}]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "words.yaml").write_text(
            "task: words\ndataset_path: json\noutput_type: loglikelihood\ntest_split: test\n"
            f"dataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\n"
            'doc_to_text: "{{text}}"\ndoc_to_target: "{{word}}"\n'
            "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
        )
        arguments = ["gpt2rt", "lm-eval", "run", "--model", "gpt2rt", "--model_args"]
        arguments += [f"model={tiny_models['fp32'].bundle.directory},threads=1"]
        arguments += ["--tasks", "words", "--include_path", str(tmp_path)]
        before = sys.argv
        try:
            sys.argv = arguments
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            sys.argv = before
        assert not ended.value.code
        assert "|words|" in capfd.readouterr().out.replace(" ", "")

    def test_beside_transformers_in_the_harness(
        self, harness: Any, tiny_models: dict[str, GPT2], tiny_weights: LargerWeights
    ) -> None:
        """The harness's own model `hf` with the same weights."""
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        from lm_eval.models.huggingface import HFLM

        place = tiny_models["fp32"].bundle.directory
        tokenizer = transformers.GPT2Tokenizer(
            str(place / "encoder.json"), str(place / "vocab.bpe")
        )
        hf = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=TINY.n_vocab,
                n_positions=TINY.n_ctx,
                n_embd=TINY.n_embd,
                n_head=TINY.n_head,
                n_layer=TINY.n_layer,
                eos_token_id=tiny_models["fp32"].tokenizer.end_of_text,
                bos_token_id=tiny_models["fp32"].tokenizer.end_of_text,
            )
        )
        with torch.no_grad():
            for name, value in hf.transformer.named_parameters():
                ours = name.replace("h.", "h", 1) if name.startswith("h.") else name
                parts = ours.replace(".", "/")
                for long, short in (("wte/weight", "wte"), ("wpe/weight", "wpe")):
                    parts = short if parts == long else parts
                norm = "ln_" in parts
                parts = parts.replace("/weight", "/g" if norm else "/w").replace("/bias", "/b")
                array = tiny_weights.read(f"model/{parts}")
                value.copy_(torch.from_numpy(np.asarray(array).reshape(value.shape)))
        peer = HFLM(pretrained=hf, tokenizer=tokenizer, device="cpu", batch_size=2)
        asked = self.requests(("ab cd", " ef"), ("", "abc"), ("x" * 100, " yz"), ("a b", " c"))
        ours = harness.loglikelihood(asked, disable_tqdm=True)
        theirs = peer.loglikelihood(asked, disable_tqdm=True)
        for (a, greedy), (b, wanted) in zip(ours, theirs, strict=True):
            assert a == pytest.approx(b, abs=2e-3)
            assert greedy == wanted
        texts = self.requests(("abc def " * 30,), ("q",))
        assert harness.loglikelihood_rolling(texts, disable_tqdm=True) == pytest.approx(
            peer.loglikelihood_rolling(texts, disable_tqdm=True), rel=1e-4
        )

    def test_its_own_wikitext_rules(self) -> None:
        """`wikitext2-harness` reads and counts what the harness's task does."""
        pytest.importorskip("lm_eval", reason="lm-evaluation-harness (lm-eval) is not installed")
        from lm_eval.tasks.wikitext import preprocess_wikitext

        from gpt2rt_evals.harness_wikitext import examples, natural, read
        from gpt2rt_evals.task import EvalSettings
        from oracle import Oracle

        path = SHARED / "eval" / "wikitext2" / "wiki.test.raw"
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        pages = read(path)
        assert len(pages) == 62
        for page in pages:
            assert natural(page) == preprocess_wikitext.wikitext_detokenizer({"page": page})
            counted = preprocess_wikitext.process_results({"page": page}, (0.0,))
            (windows,) = examples([page], Oracle(), EvalSettings())
            units = sum(window.units for window in windows)
            assert units == pytest.approx(counted["word_perplexity"][1])
