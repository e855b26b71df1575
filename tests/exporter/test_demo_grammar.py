"""Laws of the demo model's story grammar and of the vocabulary learnt from it."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).parents[2] / "export" / "demo"
if not DEMO.is_dir():
    pytest.skip("the grammar lives in the source tree only", allow_module_level=True)
sys.path.insert(0, str(DEMO))

import grammar  # noqa: E402
from grammar import Again, Choice, Items, LiteralText, Rules  # noqa: E402

N_CTX = 512


@pytest.fixture(scope="module")
def rules() -> Rules:
    return grammar.read_grammar()


@pytest.fixture(scope="module")
def stories(rules: Rules) -> list[grammar.Story]:
    rng = random.Random(1)
    return [grammar.draw(rules, rng) for _ in range(300)]


# ---------------------------------------------------------------- one derivation, exactly scored


@pytest.mark.slow
def test_a_story_has_one_derivation_of_the_probability_it_was_drawn_with(
    rules: Rules, stories: list[grammar.Story]
) -> None:
    for story in stories:
        assert list(grammar.derivations(rules, story.text)) == pytest.approx(
            [story.log_probability], abs=1e-9
        )


def begin_alike(rules: Rules, a: Items, b: Items) -> bool:
    """Whether some text of `a` and some text of `b` agree until one of them ends."""
    if not a or not b:
        return True
    if a[0] == b[0]:  # says the same in both, or chooses by the same rule
        return begin_alike(rules, a[1:], b[1:])
    if isinstance(a[0], LiteralText) and isinstance(b[0], LiteralText):
        length = min(len(a[0].text), len(b[0].text))
        if a[0].text[:length] != b[0].text[:length]:
            return False
        rest_a = (LiteralText(a[0].text[length:]), *a[1:]) if len(a[0].text) > length else a[1:]
        rest_b = (LiteralText(b[0].text[length:]), *b[1:]) if len(b[0].text) > length else b[1:]
        return begin_alike(rules, rest_a, rest_b)
    if isinstance(a[0], LiteralText):
        a, b = b, a
    return any(begin_alike(rules, (*said, *a[1:]), b) for said in sayings(rules, a[0]))


def sayings(rules: Rules, item: Any) -> list[Items]:
    """All that a choice may expand to, or the text of a remembered choice."""
    column = item.column if isinstance(item, Again) else ""
    steered = isinstance(item, Again) or item.steer is not None
    found = []
    for name, options in rules.items():
        if name == item.name or (steered and name.startswith(f"{item.name}.")):
            for option in options:
                first, *others = option.columns[column]
                found.append((first.capitalised() if item.begins else first, *others))
    return found


def test_no_two_alternatives_of_a_rule_can_begin_one_text(rules: Rules) -> None:
    """This proves that no story at all has two derivations; sampling can only fail to find one."""
    for name, options in rules.items():
        for a, b in itertools.combinations(options, 2):
            assert not begin_alike(rules, a.columns[""], b.columns[""]), name


def test_probabilities_of_every_choice_sum_to_one(rules: Rules) -> None:
    for options in rules.values():
        assert math.fsum(option.probability for option in options) == pytest.approx(1)


@pytest.mark.slow
def test_entropy_is_the_mean_surprise(rules: Rules, stories: list[grammar.Story]) -> None:
    surprises = [-story.log_probability for story in stories]
    error = statistics.stdev(surprises) / math.sqrt(len(surprises))
    assert abs(statistics.mean(surprises) - grammar.entropy(rules)) < 4 * error


def test_probabilities_of_all_stories_of_a_small_grammar_sum_to_one(tmp_path: Path) -> None:
    path = tmp_path / "small.grammar"
    path.write_text(
        "= story\n2 [pet] ran.[end by pet.kind]\n1 A [pet]! {pet.They} slept.\n"
        "= pet | they | kind\n3 Tom | he | cat\n1 Rex | he | dog\n1 Mia | she | cat\n"
        "= end.cat\n1  Purr.\n= end.dog\n1  Woof.\n4  Wuff, said {pet}.\n",
        encoding="utf-8",
    )
    small = grammar.read_grammar(path)
    pets = {"Tom": "He", "Rex": "He", "Mia": "She"}
    ends = ("Purr.", "Woof.", *(f"Wuff, said {pet}." for pet in pets))
    texts = [f"{pet} ran. {end}" for pet in pets for end in ends]
    texts += [f"A {pet}! {they} slept." for pet, they in pets.items()]
    scores = [score for text in texts if (score := grammar.log_probability(small, text))]
    assert len(scores) == 7
    assert math.fsum(map(math.exp, scores)) == pytest.approx(1)
    mean = -math.fsum(score * math.exp(score) for score in scores)
    assert grammar.entropy(small) == pytest.approx(mean)


# ---------------------------------------------------------------- what is no story is refused


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda text: text[:-1],
        lambda text: text + " ",
        lambda text: text.replace(" a ", " the ", 1),
        lambda text: text.replace("\n\n", "\n", 1),
        lambda text: text[0].swapcase() + text[1:],
        lambda text: "",
    ],
)
def test_a_corrupted_story_is_refused(
    rules: Rules, stories: list[grammar.Story], corrupt: Any
) -> None:
    for story in stories[:20]:
        corrupted = corrupt(story.text)
        assert corrupted == story.text or grammar.log_probability(rules, corrupted) is None


def test_a_hero_who_changes_names_is_refused(rules: Rules, stories: list[grammar.Story]) -> None:
    heroes = [option.columns[""][0] for option in rules["hero"]]
    names = [hero.text for hero in heroes if isinstance(hero, LiteralText)]
    for story in stories[:20]:
        hero = next(name for name in names if name in story.text)
        other = "Wren" if hero != "Wren" else "Mira"
        head, _, tail = story.text.rpartition(hero)
        assert grammar.log_probability(rules, head + other + tail) is None


def test_every_mark_names_a_rule_or_something_remembered(rules: Rules) -> None:
    columns = {
        (rule.split(".")[0], column)
        for rule, options in rules.items()
        for column in options[0].columns
    }
    for options in rules.values():
        columns_said = (column for option in options for column in option.columns.values())
        for item in itertools.chain.from_iterable(columns_said):
            if isinstance(item, Again):
                assert (item.name, item.column) in columns
            elif isinstance(item, Choice) and item.steer is None:
                assert item.name in rules
            elif isinstance(item, Choice) and item.steer is not None:
                assert (item.steer.name, item.steer.column) in columns


# ---------------------------------------------------------------- vocabulary


def byte_pair(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """GPT-2's BPE as in the paper: join the pair that was learnt first, until none is left."""
    parts = list(word)
    while len(parts) > 1:
        pairs = list(itertools.pairwise(parts))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined: list[str] = []
        for part in parts:
            if joined and (joined[-1], part) == best:
                joined[-1] += part
            else:
                joined.append(part)
        parts = joined
    return parts


def test_the_written_vocabulary_encodes_as_the_learnt_one(
    tmp_path: Path, stories: list[grammar.Story]
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    import vocabulary

    texts = [story.text for story in stories]
    learnt = vocabulary.learn(texts, n_merges=300)
    vocabulary.write(learnt, tmp_path)

    encoder = json.loads((tmp_path / "encoder.json").read_text("ascii"))
    first, *lines, last = (tmp_path / "vocab.bpe").read_text("utf-8").split("\n")
    assert (first, last, len(lines)) == ("#version: 0.2", "", 300)
    assert list(encoder.values()) == list(range(557))
    assert [encoder[key] for key in ("!", "\u0120", "<|endoftext|>")] == [0, 220, 556]
    assert [encoder["".join(line.split(" "))] for line in lines] == list(range(256, 556))

    ranks = {tuple(line.split(" ")): i for i, line in enumerate(lines)}
    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    others = ["I'll  count 123\n\n naïve 👋 worlds!? ", "<|endoftext|>", "\x00\xff"]
    for text in [*texts[:50], *others]:
        words = [word for word, _ in cut.pre_tokenize_str(text)]
        ids = [encoder[part] for word in words for part in byte_pair(word, ranks)]  # type: ignore[arg-type]
        assert ids == learnt.encode(text).ids


@pytest.mark.slow
def test_every_story_fits_the_context(rules: Rules) -> None:
    pytest.importorskip("tokenizers")
    import vocabulary

    rng = random.Random(2)
    texts = [grammar.draw(rules, rng).text for _ in range(1000)]
    learnt = vocabulary.learn(texts)
    assert learnt.get_vocab_size() == 1256
    assert max(len(encoding.ids) for encoding in learnt.encode_batch(texts)) + 2 <= N_CTX
