"""Sentences in a terminal: a list of samples, a table of languages, and both in any window."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len

from flowkit.domain import Preview
from flowkit.events import Sampled
from flowkit.ui import view
from flowkit.ui.plain import PlainListener
from flowkit.ui.previews import preview_grid
from flowkit.ui.sentences_view import cut, one_line, sentence_table, wrapped
from flowkit.ui.state import RunState
from tests.test_ui_listeners import EVENTS

ENGLISH = "My sister never forgets the small red boat that her neighbour sold to a tired farmer before the winter came."
JAPANESE = "水の上の小さな船は、長い冬が来る前に疲れた農夫に売られました。妹はそれを決して忘れません。"
COMBINING = "नमस्ते दुनिया, e\u0301te\u0301 a\u0300 la fore\u0302t, " * 3  # marks of their own, no cells of their own
TEXTS = (ENGLISH, "Nobody knew.", JAPANESE, COMBINING, "12 men row a boat.", "word" * 40, "a\x1b[31m\nb\tc", "")
SENTENCES = tuple(Preview(str(i), (text,), f"{0.1 * i:.2f}") for i, text in enumerate(TEXTS))
CAPTION = "cosine to the nearest training sentence"


def plain(lines) -> list[str]:
    return [line.plain for line in lines]


@pytest.mark.parametrize("width", [2, 3, 7, 20, 80])
@pytest.mark.parametrize("text", TEXTS)
def test_wrapping_keeps_every_character_and_the_width(text, width):
    lines = wrapped(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(one_line(text).split())
    if width == 80:  # broken between words
        words = one_line(text).split()
        assert all(word in words for line in lines for word in line.split() if cell_len(word) < 80 and word.isascii())


def test_a_line_of_a_terminal_holds_no_controls():
    assert one_line("a\x1b[31m\nb\tc\r\x9b2J\u2028d") == "a [31m b c 2J d"


def test_what_is_cut_says_so():
    assert cut(["one two", "three"], 2, 9) == ["one two", "three"]
    assert cut(["one two", "three"], 1, 9) == ["one two…"]
    assert cut(["水水水水", "水"], 1, 8) == ["水水水…"]
    assert cell_len(cut(["水水水水", "水"], 1, 8)[0]) <= 8


def test_sentences_are_a_list_below_a_caption():
    lines = plain(preview_grid(SENTENCES[:2], 60, caption=CAPTION))
    assert lines == [
        "   cosine to the nearest training sentence",
        "0  0.00  My sister never forgets the small red boat that her",
        "         neighbour sold to a tired farmer before the winter",
        "         came.",
        "1  0.10  Nobody knew.",
    ]


def test_no_remarks_no_column_or_caption():
    assert plain(
        preview_grid([Preview("cat", ("Nobody knew.",)), Preview("a dog", ("Nobody.",))], 60, caption=CAPTION)
    ) == [
        "cat    Nobody knew.",
        "a dog  Nobody.",
    ]


@pytest.mark.parametrize("width", [1, 2, 10, 24, 26, 30, 40, 79, 120, 200])
@pytest.mark.parametrize("height", [None, 1, 3, 8, 9, 12, 40])
def test_the_list_fits_its_place(width, height):
    lines = preview_grid(SENTENCES, width, height, CAPTION)
    assert all(line.cell_len <= max(2, width) for line in lines)
    if height is not None:
        assert len(lines) == height or not any("…" in line.plain for line in lines[1:])


def test_all_sentences_before_any_second_line():
    """Eight sentences in eight lines are cut; with lines to spare the first of them go on, onto a second line each."""
    longs = [Preview(str(i), (f"{i} {ENGLISH} {ENGLISH}",), "0.50") for i in range(8)]
    lines = plain(preview_grid(longs, 79, 8, CAPTION))
    assert [line[:1] for line in lines] == list("01234567") and all(line.endswith("…") for line in lines)
    lines = plain(preview_grid(longs, 79, 12, CAPTION))
    assert [line[:1] for line in lines] == list(" 0 1 2 34567") and lines[0].strip() == CAPTION
    assert [line.startswith(" " * 9) for line in lines[1:7]] == [False, True] * 3
    assert [line[:1] for line in plain(preview_grid(longs, 79, 5, CAPTION))] == list("01234")


def test_narrow_list_drops_titles_then_remarks():
    few = [Preview("a title", ("Nobody knew.",), "0.50")]
    assert plain(preview_grid(few, 39)) == ["a title  0.50  Nobody knew."]
    assert plain(preview_grid(few, 38)) == ["0.50  Nobody knew."]
    assert plain(preview_grid(few, 29)) == ["Nobody knew."]


def test_columns_stand_below_each_other_whatever_the_script():
    previews = [Preview("水", ("one",), "x"), Preview("e\u0301", ("two",), "0.5"), Preview("cat", ("three",), "水水")]
    for line, word in zip(preview_grid(previews, 60), ("one", "two", "three"), strict=True):
        assert cell_len(line.plain[: line.plain.index(word)]) == 11


def test_a_table_has_a_column_a_language():
    columns = {"eng_Latn": ["Nobody knew.", ENGLISH], "fra_Latn": ["Personne ne savait.", "12 hommes."]}
    assert plain(sentence_table(columns, 70, ["0.9", "1.0"], "cycle")) == [
        "   cycle  eng_Latn                                 fra_Latn",
        "0    0.9  Nobody knew.                             Personne ne savait.",
        "1    1.0  My sister never forgets the small red    12 hommes.",
        "          boat that her neighbour sold to a tired",
        "          farmer before the winter came.",
    ]


def test_too_many_columns_stand_below_each_other():
    columns = {"eng_Latn": ["Nobody knew.", "Yes."], "fra_Latn": [ENGLISH, "Oui."]}
    assert plain(sentence_table(columns, 50)) == [
        "0  eng_Latn  Nobody knew.",
        "   fra_Latn  My sister never forgets the small red",
        "             boat that her neighbour sold to a",
        "             tired farmer before the winter came.",
        "1  eng_Latn  Yes.",
        "   fra_Latn  Oui.",
    ]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("languages", [1, 2, 3, 5])
def test_the_table_fits_its_place(width, languages):
    columns = {f"lan_{i:04d}": TEXTS[i:] + TEXTS[:i] for i in range(languages)}
    lines = list(sentence_table(columns, width, ["0.123"] * len(TEXTS), "cycle"))
    assert all(line.cell_len <= width for line in lines)
    starts = [line.plain.split()[0] for line in lines if line.plain[:1].isdigit()]
    assert starts == [str(row) for row in range(len(TEXTS))]


SAMPLED = Sampled(
    60, SENTENCES, Path("runs/text/samples/step-00000060"), 49, 1.2, None, CAPTION,
    {"cycle": 0.91, "cycle_held_out": 0.99, "cycle_gaussian": 0.73, "cycle_noise": 0.33, "nearest_train": 0.8,
     "nearest_held_out": 0.79, "reconstruction_mse": 0.01, "inverted_variance": 1.01},
    count=32,
)  # fmt: skip


@pytest.mark.parametrize(("width", "height", "least"), [(79, 23, 6), (119, 39, 8), (199, 49, 8), (39, 23, 6)])
def test_the_live_view_shows_sentences(width, height, least):
    state = RunState()
    for event in (*EVENTS, SAMPLED):
        state.update(event)
    lines = view.lines(state, width, height)
    assert len(lines) <= height and max(line.cell_len for line in lines) <= width
    shown = [preview for preview in SENTENCES if any(f"  {preview.note}  " in line.plain for line in lines)]
    assert len(shown) >= least
    if width > 40:
        assert any(CAPTION in line.plain for line in lines)


def test_logs_show_a_few_sentences():
    stream = io.StringIO()
    with PlainListener(stream) as on:
        on(SAMPLED)
    first, *more = stream.getvalue().splitlines()
    assert " samples step=60 count=32 nfe=49" in first and "cycle=0.91" in first
    assert [line.split()[2:5] for line in more] == [["sample", "step=60", f"title='{i}'"] for i in range(3)]
    assert more[1][20:] == "sample step=60 title='1' remark='0.10' text='Nobody knew.'"
