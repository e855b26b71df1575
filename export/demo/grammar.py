"""A story grammar with known probabilities: draws stories, scores texts, computes its entropy.

The demo model learns stories drawn from `stories.grammar`. Every choice there has a weight and no
two derivations give the same text, so -log of a story's probability is exact. It is the lower bound
of the mean loss of any model on such stories.

A grammar file is a row of rules:

    = hero | they | their        a rule, and the columns of its alternatives
    4 Mira | she | her           weight, text, and what stands in each column
    3 Tobias | he | his

    = story
    1 [hero] woke. [Sky by season] {hero.They} closed {hero.their} eyes.¶[ending]

`[hero]` chooses an alternative of the rule and remembers it; `{hero}` repeats it and
`{hero.their}` is the text in its column. `[bar by land.kind]` chooses from the rule `bar.wood`
when the remembered land has `wood` as its `kind`, and `[sky by season]` goes by the text itself. A
capital (`[Sky]`, `{hero.They}`) begins a sentence. `¶` is an empty line between paragraphs, and a
line with `#` in front is a remark.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

STORIES = Path(__file__).with_name("stories.grammar")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class LiteralText:
    """Words that always appear."""

    text: str

    def capitalised(self) -> LiteralText:
        return LiteralText(capital(self.text))


@dataclass(frozen=True, slots=True)
class Again:
    """`{name.column}`: the text of a remembered choice; column "" is the text itself."""

    name: str
    column: str = ""
    begins: bool = False

    def capitalised(self) -> Again:
        return replace(self, begins=True)


@dataclass(frozen=True, slots=True)
class Choice:
    """`[name by steer]`: chooses from rule `name`, or `name.x` where x is the text of `steer`."""

    name: str
    steer: Again | None = None
    begins: bool = False

    def capitalised(self) -> Choice:
        return replace(self, begins=True)


Item = LiteralText | Again | Choice
Items = tuple[Item, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RuleAlternative:
    """One way to expand a rule; `columns[""]` is the text itself."""

    probability: float
    columns: Mapping[str, Items]


Rules = Mapping[str, tuple[RuleAlternative, ...]]
Memory = Mapping[str, RuleAlternative]


class Story(NamedTuple):
    text: str
    log_probability: float  # nats


START: Items = (Choice("story"),)


def words_of(item: LiteralText | Again, memory: Memory) -> str:
    """The words of a literal or remembered text."""
    if isinstance(item, LiteralText):
        return item.text
    words = []
    for part in memory[item.name].columns[item.column]:
        assert not isinstance(part, Choice), f"{{{item.name}}} cannot be said again"
        words.append(words_of(part, memory))
    text = "".join(words)
    return capital(text) if item.begins else text


@cache
def expansion(option: RuleAlternative, begins: bool) -> Items:
    """The items that a chosen alternative puts in place of the choice."""
    first, *others = option.columns[""]
    return (first.capitalised() if begins else first, *others)


def alternatives(rules: Rules, choice: Choice, memory: Memory) -> tuple[RuleAlternative, ...]:
    rule = choice.name
    if choice.steer is not None:
        rule = f"{rule}.{words_of(choice.steer, memory)}"
    return rules[rule]


# ---------------------------------------------------------------- draw, score, measure


def draw(rules: Rules, rng: random.Random) -> Story:
    """A random story and the logarithm of its probability."""
    todo, memory, words, score = list(START), dict[str, RuleAlternative](), list[str](), 0.0
    while todo:
        item = todo.pop(0)
        if isinstance(item, Choice):
            options = alternatives(rules, item, memory)
            (chosen,) = rng.choices(options, [option.probability for option in options])
            memory[item.name] = chosen
            todo[:0] = expansion(chosen, item.begins)
            score += math.log(chosen.probability)
        else:
            words.append(words_of(item, memory))
    return Story("".join(words), score)


def derivations(rules: Rules, text: str) -> Iterator[float]:
    """The log-probability of every derivation of a text, found from the text alone."""
    open_ends: list[tuple[Items, int, Memory, float]] = [(START, 0, {}, 0.0)]
    while open_ends:
        todo, place, memory, score = open_ends.pop()
        while todo:
            item, todo = todo[0], todo[1:]
            if isinstance(item, Choice):
                for option in alternatives(rules, item, memory):
                    ahead = expansion(option, item.begins) + todo
                    reached = score + math.log(option.probability)
                    open_ends.append((ahead, place, {**memory, item.name: option}, reached))
                break
            words = words_of(item, memory)
            if not text.startswith(words, place):
                break
            place += len(words)
        else:
            if place == len(text):
                yield score


def log_probability(rules: Rules, text: str) -> float | None:
    """The exact log-probability of a text in nats; None if the grammar has no such story."""
    scores = list(derivations(rules, text))
    assert len(scores) <= 1, "two derivations of one story"
    return scores[0] if scores else None


def entropy(rules: Rules) -> float:
    """The mean of -log p over all stories, in nats, by the chain rule over the choices.

    Of all that a story has chosen so far, only what still steers a choice to come can matter, so
    beginnings that agree in that share one sum.
    """

    @cache
    def choices(option: RuleAlternative, begins: bool) -> tuple[Choice, ...]:
        return tuple(item for item in expansion(option, begins) if isinstance(item, Choice))

    @cache
    def asks(choice: Choice) -> frozenset[str]:
        """The names that this choice, and the choices within it, look up in the memory."""
        names = [choice.name]
        if choice.steer is not None:
            names = [name for name in rules if name.startswith(f"{choice.name}.")]
        within = (asks(c) for name in names for o in rules[name] for c in choices(o, False))
        return frozenset({choice.steer.name} if choice.steer else ()).union(*within)

    @cache
    def rest(todo: tuple[Choice, ...], known: frozenset[tuple[str, RuleAlternative]]) -> float:
        if not todo:
            return 0.0
        choice, *others = todo
        memory = dict(known)
        total = 0.0
        for option in alternatives(rules, choice, memory):
            after = (*choices(option, choice.begins), *others)
            needed = frozenset[str]().union(*map(asks, after))
            remembered = {**memory, choice.name: option}
            kept = frozenset((name, remembered[name]) for name in needed if name in remembered)
            total += option.probability * (rest(after, kept) - math.log(option.probability))
        return total

    return rest((Choice("story"),), frozenset())


# ---------------------------------------------------------------- read a grammar file

PARAGRAPH = "\n\n"
MARK = re.compile(r"\[(?P<choice>[^\]]+)\]|\{(?P<again>[^}]+)\}")


def read_again(mark: str) -> Again:
    name, _, column = mark.partition(".")
    begins = not (column or name)[0].islower()
    return Again(name.lower(), column.lower(), begins)


def read_choice(mark: str) -> Choice:
    name, _, steer = mark.partition(" by ")
    return Choice(name.lower(), read_again(steer) if steer else None, name[0].isupper())


def read_items(template: str) -> Items:
    items: list[Item] = []
    end = 0
    for mark in MARK.finditer(template):
        if mark.start() > end:
            items.append(LiteralText(template[end : mark.start()].replace("¶", PARAGRAPH)))
        choice, again = mark["choice"], mark["again"]
        items.append(read_choice(choice) if choice else read_again(again))
        end = mark.end()
    if end < len(template):
        items.append(LiteralText(template[end:].replace("¶", PARAGRAPH)))
    return tuple(items)


def read_rule(title: str, lines: list[str]) -> tuple[RuleAlternative, ...]:
    columns = ["", *title.split(" | ")[1:]]
    rows = [line.split(" ", 1) for line in lines]
    total = sum(int(weight) for weight, _ in rows)
    return tuple(
        RuleAlternative(
            int(weight) / total,
            dict(zip(columns, map(read_items, text.split(" | ")), strict=True)),
        )
        for weight, text in rows
    )


def read_grammar(path: Path = STORIES) -> Rules:
    """Every rule of a grammar file, by its name."""
    rules: dict[str, tuple[RuleAlternative, ...]] = {}
    text = path.read_text(encoding="utf-8")
    for block in re.split(r"^= ", text, flags=re.MULTILINE)[1:]:
        title, *lines = [line for line in block.split("\n") if line and not line.startswith("#")]
        rules[title.split(" | ")[0]] = read_rule(title, lines)
    return rules
