"""The language of the built-in sentences: counted, drawn from, and decided."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import pytest

from flowkit.errors import UserError
from flowkit.text.mini import grammar
from flowkit.text.mini.grammar import (
    GRAMMAR,
    PATTERNS,
    SIZE,
    WORDS,
    belongs,
    compile_grammar,
    count,
    derivations,
    enumerate_sentences,
    generate,
    render,
)

SENTENCES = generate(3000, 5)


def test_size_of_reduced_grammars_is_what_enumeration_finds() -> None:
    for kept in (1, 2):
        words = {name: " ".join(listed.split()[: kept if name in ("PERSON", "TROUBLE", "MEAL", "PET") else 1])
                 for name, listed in WORDS.items()}  # fmt: skip
        reduced = compile_grammar(PATTERNS, words)
        sentences = [render(derived) for derived in enumerate_sentences(reduced)]
        assert len(set(sentences)) == len(sentences) == count(reduced) > 300 * kept
        assert all(derivations(sentence, reduced) == 1 for sentence in sentences[:: 6 * kept])
        assert all(belongs(sentence) for sentence in sentences[:: 6 * kept])


def test_size_by_hand() -> None:
    """A toy grammar whose strings can be listed: weights do not count, an optional word is there or not."""
    toy = compile_grammar({"SENTENCE": "5 the N V? . | a N ."}, {"N": "owl fox", "V": "ran slept sang"})
    assert count(toy) == 2 * (1 + 3) + 2
    assert {render(words) for words in enumerate_sentences(toy)} == {
        "The owl.", "The owl ran.", "The owl slept.", "The owl sang.", "An owl.",
        "The fox.", "The fox ran.", "The fox slept.", "The fox sang.", "A fox.",
    }  # fmt: skip


def test_size_of_the_language() -> None:
    assert SIZE == count(GRAMMAR) >= 10**7
    vocabulary = {word for listed in WORDS.values() for word in listed.split()}
    assert 100 <= len(vocabulary) <= 300


def test_generated_sentences_are_distinct_belong_and_have_one_derivation() -> None:
    assert len(set(SENTENCES)) == len(SENTENCES)
    assert all(derivations(sentence) == 1 for sentence in SENTENCES[:600])


def test_generation_depends_on_the_seed_alone() -> None:
    assert generate(3000, 5) == SENTENCES
    assert generate(100, 5) == SENTENCES[:100], "a shorter list is the beginning of a longer one"
    assert len(set(generate(3000, 6)) & set(SENTENCES)) < 150
    command = "from flowkit.text.mini.grammar import generate; print(generate(1, 5)[0])"
    fresh = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == SENTENCES[0]


def test_sentences_read_as_english() -> None:
    lengths = [len(sentence.split()) for sentence in SENTENCES]
    assert min(lengths) >= 3 and max(lengths) <= 16 and len(set(lengths)) >= 8
    for sentence in SENTENCES:
        assert re.fullmatch(r"[A-Z][a-zA-Z]*( [a-zA-Z]+|, [a-z]+)*[.?]", sentence), sentence
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", sentence), sentence
    assert sum(sentence.endswith("?") for sentence in SENTENCES) > 300
    assert sum(" while " in sentence or " but " in sentence for sentence in SENTENCES) > 150
    assert sum(" an " in sentence or sentence.startswith("An ") for sentence in SENTENCES) > 50


@pytest.mark.parametrize(
    "sentence",
    [
        "The old king found a golden key in the garden yesterday.",
        "Did the elephant sleep near the river?",
        "The old sailor ate an onion behind the tower on Monday.",
        "Was the fox hungry?",
        "the old king found a golden key.",
        "The old king found a golden key",
        "The old king found a golden key .",
        "The  old king found a golden key.",
        "The old king found an golden key.",
        "A umbrella was in the park.",
        "The key found a king in the garden.",
        "The king old found a key.",
        "The kings found a key.",
        "Where did the king hid the key?",
        "on Monday, the king ate a pie.",
        "The king ate a pie on monday.",
        "The king ate a pie.\n",
        " The king ate a pie.",
        "The king ate a pie..",
        "The king ate a pie?",
        "",
        ".",
        "A",
        "苹果",
    ],
)
def test_the_checker_decides_letter_for_letter(sentence: str) -> None:
    assert belongs(sentence) is (sentence in (
        "The old king found a golden key in the garden yesterday.",
        "Did the elephant sleep near the river?",
        "The old sailor ate an onion behind the tower on Monday.",
    ))  # fmt: skip


def test_corruptions_mostly_do_not_belong() -> None:
    """A word replaced by any other, left out, or two neighbors swapped."""
    rng = random.Random(0)
    vocabulary = sorted({word for listed in WORDS.values() for word in listed.split()})
    survivors = dict.fromkeys(("replaced", "left out", "swapped"), 0)
    for sentence in SENTENCES[:300]:
        words = sentence[:-1].split()
        place = rng.randrange(1, len(words) - 1)
        replaced = [*words[:place], rng.choice(vocabulary), *words[place + 1 :]]
        swapped = [*words[:place], words[place + 1], words[place], *words[place + 2 :]]
        for name, changed in (
            ("replaced", replaced),
            ("left out", words[:place] + words[place + 1 :]),
            ("swapped", swapped),
        ):
            text = " ".join(changed) + sentence[-1]
            survivors[name] += text != sentence and belongs(text)
    assert survivors["replaced"] < 45 and survivors["swapped"] < 15 and survivors["left out"] < 135, survivors


def test_too_many_or_too_few_sentences_are_refused() -> None:
    for number in (0, -3, SIZE):
        with pytest.raises(UserError, match=r"expected 1 to .* sentences"):
            generate(number, 0)


def test_the_grammar_needs_no_torch() -> None:
    command = f"import sys, {grammar.__name__}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0
