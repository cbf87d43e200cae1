"""A small English grammar: the language of the miniature SONAR and of the built-in data set "sentences".

About 150 words in a dozen patterns give `SIZE` sentences (17 million), so a generated sentence is rarely a training
sentence. Nouns, verbs and adjectives are in classes that fit together. Whether a string belongs to the language can be
decided exactly. Does not import torch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

from flowkit.errors import UserError

# A symbol in capitals is replaced by one of its alternatives, with the weight before it (default 1).
# "a" becomes "an" before a vowel. The grammar is unambiguous, so counting derivations counts sentences.
PATTERNS = {
    "SENTENCE": "8 CLAUSE DAY? . | 2 QUESTION ?",
    "CLAUSE": """3 SOMEONE HANDLED A-THING WHERE | 2 SOMEONE ATE A-FOOD WHERE | 2 SOMEONE MET the FRIEND WHERE
        | 2 SOMEONE FED A-PET WHERE | 2 A-PET CHASED the PREY WHERE | 2 COUNT ADJ-MANY MANY PLAYED WHERE
        | 2 SOMEONE GAVE the FRIEND A-THING | SOMEONE was TROUBLE but JOY | there was a ADJ-THING THING WHERE
        | 2 SOMEONE WORKED while A-PET SLEPT WHERE""",
    "QUESTION": "where did SOMEONE HANDLE A-THING DAY? | why was SOMEONE MOOD DAY? | did A-PET SLEEP WHERE DAY?",
    "SOMEONE": "the ADJ-PERSON? PERSON",
    "A-PET": "the ADJ-PET? PET",
    "A-THING": "a ADJ-THING? THING",
    "A-FOOD": "a ADJ-FOOD? FOOD",
    "MOOD": "TROUBLE | JOY",
    "WHERE": "in the INSIDE | BESIDE the PLACE",
    "DAY": "yesterday | last NIGHT | on WEEKDAY | before MEAL | after MEAL",
}
# Words by class. "X?" above is one of X with probability 1/2, and nothing otherwise.
WORDS = {
    "PERSON": "baker child doctor farmer king painter queen sailor singer teacher",
    "ADJ-PERSON": "clever kind old young",
    "PET": "cat dog elephant fox horse owl tiger wolf",
    "ADJ-PET": "big black grey hungry",
    "PREY": "duck frog goat mouse rabbit sheep",
    "THING": "basket book coin hat key lamp letter map mirror umbrella",
    "ADJ-THING": "blue broken golden heavy red tiny",
    "FOOD": "apple cake onion pancake pear pie",
    "ADJ-FOOD": "delicious fresh large sweet",
    "HANDLED": "bought dropped found hid lost sold",
    "HANDLE": "buy drop find hide lose",
    "ATE": "ate shared tasted",
    "FRIEND": "brother cousin neighbour sister stranger",
    "MET": "greeted helped thanked visited",
    "FED": "fed painted washed watched",
    "CHASED": "chased followed heard saw",
    "WORKED": "danced sang waited walked worked",
    "SLEPT": "drank jumped rested slept",
    "SLEEP": "drink jump rest sleep",
    "GAVE": "brought gave showed",
    "COUNT": "five many three two",
    "ADJ-MANY": "busy cheerful noisy",
    "MANY": "birds children dogs girls horses sailors",
    "PLAYED": "danced played rested waited",
    "TROUBLE": "afraid angry sad tired",
    "JOY": "brave calm happy proud",
    "INSIDE": "barn castle forest garden kitchen village",
    "BESIDE": "behind near",
    "PLACE": "bridge church house lake river tower",
    "NIGHT": "night week winter",
    "WEEKDAY": "Monday Friday Sunday",
    "MEAL": "dinner lunch",
}

Symbols = tuple[str, ...]
Rule = tuple[tuple[int, Symbols], ...]  # (weight, symbols) of each alternative
Grammar = dict[str, Rule]


def compile_grammar(patterns: dict[str, str], words: dict[str, str]) -> Grammar:
    """Return the rules by symbol, including "SENTENCE". A symbol without a rule is a word."""
    rules: Grammar = {name: tuple((1, (word,)) for word in listed.split()) for name, listed in words.items()}
    for name, pattern in patterns.items():
        rules[name] = tuple(_alternative(text.split()) for text in pattern.split("|"))
    optional = {symbol for rule in rules.values() for _, symbols in rule for symbol in symbols if symbol[:-1] in rules}
    return rules | {symbol: ((1, ()), (1, (symbol[:-1],))) for symbol in optional if symbol not in rules}


def _alternative(symbols: list[str]) -> tuple[int, Symbols]:
    return (int(symbols[0]), tuple(symbols[1:])) if symbols[0].isdigit() else (1, tuple(symbols))


def count(grammar: Grammar, symbol: str = "SENTENCE") -> int:
    """Return the number of strings that a symbol generates, if the grammar is unambiguous."""
    if symbol not in grammar:
        return 1
    total = 0
    for _, symbols in grammar[symbol]:
        ways = 1
        for part in symbols:
            ways *= count(grammar, part)
        total += ways
    return total


def enumerate_sentences(grammar: Grammar, symbol: str = "SENTENCE") -> Iterator[Symbols]:
    """Yield the words of every derivation. For small grammars only."""
    if symbol not in grammar:
        yield (symbol,)
        return
    for _, symbols in grammar[symbol]:
        for parts in product(*(tuple(enumerate_sentences(grammar, part)) for part in symbols)):
            yield tuple(word for part in parts for word in part)


GRAMMAR = compile_grammar(PATTERNS, WORDS)
SIZE = count(GRAMMAR)


def generate(num: int, seed: int, grammar: Grammar = GRAMMAR) -> list[str]:
    """Return `num` distinct sentences. A longer list with the same seed starts with the same sentences.

    Raises UserError for more than a tenth of the language, because drawing distinct sentences would become slow.
    """
    if not 1 <= num <= max(1, count(grammar) // 10):
        raise UserError(f"num_samples = {num:,}: expected 1 to {count(grammar) // 10:,} sentences")
    rng = random.Random(f"sentences {seed}")
    bounds = {symbol: _bounds(rule) for symbol, rule in grammar.items()}
    found: dict[str, None] = {}
    while len(found) < num:
        words: list[str] = []
        pending = ["SENTENCE"]
        while pending:
            symbol = pending.pop()
            if symbol in bounds:
                alternatives = bounds[symbol]
                pending += alternatives[int(rng.random() * len(alternatives))]
            else:
                words.append(symbol)
        found[render(words)] = None
    return list(found)


def _bounds(rule: Rule) -> list[Symbols]:
    """Return each alternative, repeated by its weight, with its symbols in reverse order for a stack."""
    return [symbols[::-1] for weight, symbols in rule for _ in range(weight)]


def render(words: list[str] | Symbols) -> str:
    """Join words to a sentence: choose a or an, attach punctuation, capitalize the first letter."""
    text = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        word = "an" if word == "a" and following[:1] in "aeiou" else word
        text += word if word in ".,?" else " " + word
    return text[1:2].upper() + text[2:]


def belongs(sentence: str) -> bool:
    """Return whether this is exactly a sentence of the language."""
    return derivations(sentence) > 0


def derivations(sentence: str, grammar: Grammar = GRAMMAR) -> int:
    """Return the number of derivations of a sentence: 0 if it does not belong to the language, else 1 if unambiguous."""
    words = _read(sentence)
    if not words or render(words) != sentence:
        return 0

    @lru_cache(None)
    def ends(symbol: str, start: int) -> dict[int, int]:
        """Return {end: number of derivations} for strings of `symbol` that start at word `start`."""
        found: dict[int, int] = {}
        for _, symbols in grammar[symbol]:
            reached = {start: 1}
            for part in symbols:
                reached = onward(part, reached)
                if not reached:
                    break
            for end, ways in reached.items():
                found[end] = found.get(end, 0) + ways
        return found

    def onward(part: str, reached: dict[int, int]) -> dict[int, int]:
        if part not in grammar:
            return {place + 1: ways for place, ways in reached.items() if place < len(words) and words[place] == part}
        following: dict[int, int] = {}
        for place, ways in reached.items():
            for end, more in ends(part, place).items():
                following[end] = following.get(end, 0) + ways * more
        return following

    return ends("SENTENCE", 0).get(len(words), 0)


def _read(sentence: str) -> list[str]:
    """Return the words and punctuation marks of a sentence as the rules spell them. `render` checks the exact spelling."""
    text = sentence[:1].lower() + sentence[1:]
    for mark in ".,?":
        text = text.replace(mark, f" {mark}")
    return ["a" if word == "an" else word for word in text.split()]
