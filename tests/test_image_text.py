"""Images and texts as conditions of sketches: prepared, stored, trained on, dropped, guided, asked for, measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import flowkit
from flowkit.components import trusting
from flowkit.conditions import KINDS, Conditions
from flowkit.data.dataset import Dataset, read_dataset, write_dataset
from flowkit.data.encoded import Encoded, encoded_file
from flowkit.errors import UserError
from flowkit.flow.guidance import guided
from flowkit.flow.objective import FlowObjective
from flowkit.flow.paths import Linear
from flowkit.models import create_model
from flowkit.rng import Draws
from flowkit.sketch.conditions import Encoding
from flowkit.sketch.prepare import prepare
from flowkit.training.batches import Batches, Layout, conditions_of
from flowkit.training.step import draw_dropped
from tests.conftest import sketch_rows
from tests.processes import flowkit as run_flowkit
from tests.tiny_encoders import Grays

GRAYS, LETTERS = "tests.tiny_encoders:Grays", "tests.tiny_encoders:Letters"
TINY = {
    "num_strokes": 5,
    "embed_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "image_dim": 3,
    "image_tokens": 4,
    "text_dim": 6,
}


def drawing(place: int) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path d="M{2 + place} 3 L20 {4 + place % 9} L5 20" '
            'fill="none" stroke="black"/></svg>')  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> SimpleNamespace:
    """Drawings of three classes, and photos. cat0 has three, dog3 has none, "nobody" has no drawing, owl1 cannot be read."""
    for name in ("cat", "dog", "owl"):
        (tmp_path / "drawings" / name).mkdir(parents=True)
        (tmp_path / "photos" / name).mkdir(parents=True)
        for place in range(8):
            (tmp_path / "drawings" / name / f"{name}{place}.svg").write_text(drawing(place))
            Image.new("RGB", (16, 16), (place * 30, 0, 0)).save(tmp_path / "photos" / name / f"{name}{place}.png")
    photos = tmp_path / "photos"
    Image.new("L", (16, 16), 9).save(photos / "cat" / "cat0-1.png")
    Image.new("L", (16, 16), 99).save(photos / "cat" / "cat0-2.png")
    (photos / "dog" / "dog3.png").unlink()
    Image.new("L", (16, 16), 9).save(photos / "dog" / "nobody.png")
    (photos / "owl" / "owl1.png").write_bytes(b"not a picture")
    return SimpleNamespace(drawings=tmp_path / "drawings", photos=photos, out=tmp_path / "data" / "mine", root=tmp_path)


def prepared(folders: SimpleNamespace, **more: Any):
    with trusting():
        return prepare(folders.drawings, folders.out, images=str(folders.photos), image_encoder=GRAYS, **more)


# ---- stored ----


def some_encoded() -> Encoded:
    tokens = np.arange(5 * 2 * 3, dtype=np.float16).reshape(5, 2, 3)
    return Encoded(
        tokens, np.array([0, 2, 2, 5]), np.array([[1, 1], [1, 0], [1, 1], [0, 1], [1, 1]], bool), {"encoder": "e"}
    )


def test_one_of_several_items_is_drawn_and_none_means_dropped():
    one = some_encoded()
    tokens, mask = one.of(np.array([2, 1, 0, 0]), np.array([0.4, 0.9, 0.0, 0.999]))
    assert mask is not None and torch.equal(
        torch.from_numpy(tokens[[0, 2, 3]]), torch.from_numpy(one.tokens[[3, 0, 1]])
    )
    assert not tokens[1].any() and mask.tolist() == [[False, True], [False, False], [True, True], [True, False]]
    bare = replace(one, mask=None, first=np.array([0, 2, 3, 5]))
    assert bare.of(np.array([0, 1]))[1] is None


def test_taking_and_writing_keep_every_item(tmp_path):
    order = np.array([4, 3, 2, 1, 0])
    mixed = replace(some_encoded(), tokens=some_encoded().tokens[order], mask=some_encoded().mask[order], order=order)
    rows = np.array([2, 0, 1, 2])
    x = np.zeros((3, 2, 8), np.float32)
    data = Dataset("sketch", x, encoded={"image": mixed})
    write_dataset(tmp_path / "all", data)
    write_dataset(tmp_path / "some", data, rows)
    some, few = some_encoded(), some_encoded().take(rows)
    for found, wanted in ((read_dataset(tmp_path / "all"), some), (data.take(np.arange(3)), some),
                          (read_dataset(tmp_path / "some"), few), (data[rows], few)):  # fmt: skip
        held = found.encoded["image"]
        assert np.array_equal(held.first, wanted.first) and held.info == {"encoder": "e"}
        for row in range(len(wanted)):
            for turn in (0.0, 0.5, 0.99):
                for a, b in zip(held.of([row], np.array([turn])), wanted.of([row], np.array([turn])), strict=True):
                    assert np.array_equal(a, b)
    write_dataset(tmp_path / "all", replace(data, encoded={}))
    assert (
        not read_dataset(tmp_path / "all").encoded and not encoded_file(tmp_path / "all.safetensors", "image").exists()
    )


def test_a_file_of_other_rows_is_refused(tmp_path):
    for rows in (3, 4):
        many = replace(some_encoded(), first=np.array([0, 2, 2, 5, 5][: rows + 1]))
        write_dataset(
            tmp_path / str(rows), Dataset("sketch", np.zeros((rows, 2, 8), np.float32), encoded={"text": many})
        )
    (tmp_path / "4.text.safetensors").replace(tmp_path / "3.text.safetensors")
    with pytest.raises(UserError, match=r"3.text.safetensors: does not belong to 3 rows"):
        read_dataset(tmp_path / "3")


# ---- prepared ----


def test_photos_are_paired_by_name_and_what_is_left_over_is_said(folders):
    report = prepared(folders)
    data = read_dataset(folders.out)
    held = data.encoded["image"]
    assert (
        held.shape == (16, 3)
        and held.counts.sum() == 24
        and sorted(held.counts)[:3] == [0, 0, 1]
        and max(held.counts) == 3
    )
    notes = "\n".join(report.notes)
    assert "1 drawing without an image: dog/dog3.svg" in notes and "1 image without a drawing: dog/nobody.png" in notes
    assert "1 image not read: is not a picture" in notes and "owl/owl1.png" in notes
    # Each row has the picture of its own number: the red of photo `place` is place * 30, and a drawing starts at x = 2 + place.
    for row in range(len(data)):
        place = round((data.x[row, 0, 0] + 1) * 12 - 2)
        name = data.class_names[data.class_label[row]]
        if name == "cat" and place == 0:
            assert held.counts[row] == 3
        elif held.counts[row]:
            assert held.of([row])[0][0, :, 0] * 255 == pytest.approx(place * 30, abs=0.2), (name, place)
    info = json.loads(folders.out.with_suffix(".json").read_text())["encoded"]["image"]
    assert info["encoder"] == GRAYS and info["fingerprint"] == "0" * 64 and info["items"] == 24
    assert not list(folders.out.parent.glob(".*"))


def test_a_photo_may_have_several_drawings(folders):
    (folders.drawings / "cat" / "cat5-1.svg").write_text(drawing(1))
    (folders.drawings / "cat" / "cat5-2.svg").write_text(drawing(2))
    (folders.drawings / "cat" / "cat5.svg").unlink()
    report = prepared(folders)
    assert "cat5" not in "\n".join(report.notes) and read_dataset(folders.out).encoded["image"].counts.sum() == 25


def test_equal_names_in_two_folders_are_told_apart(folders):
    for name, red in (("cat", 50), ("dog", 200)):
        (folders.drawings / name / "same.svg").write_text(drawing(9))
        Image.new("RGB", (16, 16), (red, 0, 0)).save(folders.photos / name / "same.png")
    prepared(folders)
    data = read_dataset(folders.out)
    held = data.encoded["image"]
    found = {data.class_names[data.class_label[row]]: held.of([row])[0][0, 0, 0] * 255 for row in range(len(data))
             if round((data.x[row, 0, 0] + 1) * 12) == 11}  # fmt: skip
    assert found == pytest.approx({"cat": 50, "dog": 200}, abs=0.2) and (held.counts[held.counts > 1] == 3).all()


def test_an_interrupted_call_is_resumed(folders, monkeypatch):
    Grays.calls.clear()
    prepared(folders)
    once, wanted = sum(Grays.calls), read_dataset(folders.out)
    whole = (np.array(wanted.x), np.array(wanted.encoded["image"].tokens), wanted.encoded["image"].first)
    again = SimpleNamespace(**{**vars(folders), "out": folders.root / "again"})
    real, begin = Grays.encode, Encoding.__post_init__

    def in_small_batches(self) -> None:
        self.batch_size = 5
        begin(self)

    def dies(self, items):
        if sum(Grays.calls) == 10:
            raise KeyboardInterrupt
        return real(self, items)

    monkeypatch.setattr(Encoding, "__post_init__", in_small_batches)
    monkeypatch.setattr(Grays, "encode", dies)
    Grays.calls.clear()
    with pytest.raises(KeyboardInterrupt):
        prepared(again)
    assert not again.out.with_suffix(".safetensors").exists()
    with next(again.root.glob(".again.image*.partial")).open("ab") as file:
        file.write(b"half an image")  # written, but not yet in the index
    monkeypatch.setattr(Grays, "encode", real)
    Grays.calls.clear()
    report, found = prepared(again), read_dataset(again.out)
    assert sum(Grays.calls) == once - 10 and "10 images had been encoded by an earlier call" in "\n".join(report.notes)
    for mine, wanted in zip((found.x, found.encoded["image"].tokens, found.encoded["image"].first), whole, strict=True):
        assert np.array_equal(mine, wanted)


def test_other_weights_encode_everything_again(folders):
    class Stop(Exception): ...

    with pytest.raises(Stop):
        prepared(folders, tell=lambda what, done, total: (_ for _ in ()).throw(Stop) if done > total // 2 else None)
    other = folders.root / "weights"
    other.write_text("f" * 64)
    Grays.calls.clear()
    prepared(folders, encoder_weights={"image": other})
    assert sum(Grays.calls) == 24


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".json.gz"])
def test_texts_of_every_format(folders, suffix):
    import gzip

    named = {f"cat/cat{place}.svg": f"cat number {'x' * place}" for place in range(8)} | {
        "dog/dog1.svg": "a dog, brown"
    }
    lines = {
        ".json": json.dumps(named), ".jsonl": "\n".join(json.dumps({"file": name, "text": text}) for name, text in named.items()),
        ".csv": "file,text\n" + "\n".join(f'{name},"{text}"' for name, text in named.items()),
        ".tsv": "\n".join(f"{name}\t{text}" for name, text in named.items()),
    }  # fmt: skip
    path = folders.root / f"texts{suffix}"
    text = lines[suffix.removesuffix(".gz")].encode()
    path.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
    with trusting():
        report = prepare(folders.drawings, folders.out, texts=path, text_encoder=LETTERS)
    data = read_dataset(folders.out)
    assert data.encoded["text"].shape == (3, 26), "columns that no text reaches are left out"
    assert data.texts is not None and sum(bool(one) for one in data.texts) == 9 and "a dog, brown" in list(data.texts)
    assert "15 drawings without a text" in "\n".join(report.notes)


def test_tags_are_joined_and_selected(folders):
    path = folders.drawings / "tags.json"
    path.write_text(json.dumps({f"{name}/{name}{place}.svg": ["alpha", "beta", "gamma", name] for name in ("cat", "dog", "owl")
                                for place in range(8)}))  # fmt: skip
    with trusting():
        prepare(
            folders.drawings, folders.out, texts=Path("tags.json"), text_encoder=LETTERS, join_texts=True, variants=5
        )
    data = read_dataset(folders.out)
    held = data.encoded["text"]
    assert (held.counts == 5).all() and set(data.texts or ()) == {
        f"alpha, beta, gamma, {name}" for name in ("cat", "dog", "owl")
    }
    assert held.mask is not None and held.mask.sum(1).min() == 1 and (held.mask[held.first[:-1]].sum(1) == 4).all()


def test_classes_held_out(folders):
    prepared(folders, hold_out=["owl"])
    data = read_dataset(folders.out)
    names = np.array(data.class_names)[data.class_label]
    assert set(names[data.rows("test")]) == {"owl"} and len(data.rows("test")) == 8
    assert len(data.rows("validation")) == 2 and data.class_names[-1] == "owl"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"images": "render"}, "--images: needs --image-encoder, such as efficientnet-lite0"),
        ({"image_encoder": GRAYS, "images": "nowhere"}, "--images: nowhere is missing"),
        ({"image_encoder": GRAYS}, "no drawing has an image"),
        ({"text_encoder": LETTERS}, "no drawing has a text"),
        ({"texts": Path("nowhere.json"), "text_encoder": LETTERS}, "nowhere.json is neither a file nor in .*drawings"),
        ({"join_texts": True}, "--join-texts: only used with --texts"),
        ({"variants": 3}, "--variants: only used with"),
        ({"hold_out": ["cta"]}, "--hold-out cta: no such class.*cat"),
        ({"hold_out": ["cat", "dog", "owl"]}, "names all classes"),
        ({"encoder_weights": {"image": Path("x")}}, "--encoder-weights: needs"),
        ({"image_encoder": "efficientnet-lite", "images": "render"}, "efficientnet-lite0"),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_written(folders, more, said):
    with trusting(), pytest.raises(UserError, match=said):
        prepare(folders.drawings, folders.out, **more)
    assert not folders.out.with_suffix(".safetensors").exists() and not folders.out.with_suffix(".json").exists()
    if "hold_out" not in more:  # a later mistake leaves what was encoded, for the corrected command
        assert not list(folders.out.parent.glob(".*"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("latin.json", '{"cat0": "caf\xe9"}'.encode("latin-1"), "is not in UTF-8"), ("a.json", b"[1, 2]", "expected .json"),
        ("a.jsonl", b'{"name": 1}', "expected .json"), ("a.xml", b"<a/>", "expected .json"), ("b.json", b"{}", "has no texts"),
    ],
)  # fmt: skip
def test_text_files_that_cannot_be_read(folders, name, content, said):
    (folders.root / name).write_bytes(content)
    with trusting(), pytest.raises(UserError, match=said):
        prepare(folders.drawings, folders.out, texts=folders.root / name, text_encoder=LETTERS)


def test_texts_in_utf16_and_texts_that_are_too_long(folders):
    path = folders.root / "a.json"
    path.write_bytes(json.dumps({"cat0": "cat " * 13, "cat1": "one"}).encode("utf-16"))
    with trusting():
        report = prepare(folders.drawings, folders.out, texts=path, text_encoder=LETTERS)
    assert "1 text is longer than tests.tiny_encoders:Letters reads (12 tokens)" in "\n".join(report.notes)


def test_controlsketch_brings_its_own_photos_and_captions(tmp_path):
    """Its object is shown on white, as SwiftSketch's encoder sees it."""
    import io

    for split, name in (("train", "cat"), ("train", "dog"), ("test", "owl")):
        folder = tmp_path / "control" / split / name
        folder.mkdir(parents=True)
        for seed in range(3):
            picture = io.BytesIO()
            Image.new("RGB", (512, 512), (200, 0, 0)).save(picture, "JPEG")
            mask = np.zeros((512, 512), np.uint8)
            mask[:, 256:] = 1
            strokes = "".join(
                f'<path d="M {seed + k} 9 C 50 20 90 300 {300 + k} 400" fill="none" stroke="black"/>' for k in range(4)
            )
            text = f'<svg viewBox="0 0 512 512" xmlns="http://www.w3.org/2000/svg">{strokes}</svg>'
            np.savez(folder / f"{name}_{seed}.npz", image=np.array(picture.getvalue()), mask=mask, svg_32s=np.array(text),
                     caption=np.array(f"a {name}"), attn_map=np.zeros((4, 4), np.float32))  # fmt: skip
    with trusting():
        prepare(tmp_path / "control", tmp_path / "data", image_encoder=GRAYS, text_encoder=LETTERS)
    data = read_dataset(tmp_path / "data")
    image = data.encoded["image"].tokens.reshape(-1, 4, 4, 3).astype(float) * 255
    assert len(image) == 9 and image[:, :, 0] == pytest.approx(255, abs=1)
    assert image[:, :, 3, 0] == pytest.approx(200, abs=4) and image[:, :, 3, 1:] == pytest.approx(0, abs=4)
    assert len(data.rows("test")) == 3 and data.texts is not None and set(data.texts) == {"a cat", "a dog", "a owl"}


# ---- networks ----


def told(rows: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randn(rows, 4, 3, generator=generator), "text": torch.randn(rows, 5, 6, generator=generator),
            "text_mask": torch.arange(5) < torch.tensor([[5], [2], [0]])[:rows]}  # fmt: skip


def network(arch: str, **more: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    model = create_model(arch, **{**TINY, **more}).eval()
    for parameter in model.parameters():  # zero at first, so that nothing is seen
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


ARCHS = ("bezier_sketch_dit", "bezier_sketch_transformer")


@pytest.mark.parametrize("arch", ARCHS)
def test_masked_tokens_change_nothing_and_visible_ones_do(arch):
    model, x, t, given = network(arch), torch.randn(3, 5, 8), torch.rand(3), told()
    found = model(x, t, **given)
    hidden = {**given, "text": given["text"].masked_fill(~given["text_mask"][..., None], 7.0)}
    assert torch.equal(model(x, t, **hidden), found)
    for name, place in (("image", (0, 2)), ("text", (1, 1))):
        other = {**given, name: given[name].index_put(tuple(map(torch.tensor, place)), torch.tensor(3.0))}
        changed = (model(x, t, **other) != found).flatten(1).any(1).tolist()
        assert changed == [row == place[0] for row in range(3)], name


@pytest.mark.parametrize("arch", ARCHS)
def test_places_of_image_tokens_matter_and_those_of_words_do_not(arch):
    """A convolution's features say little about where they are, so cells have learned positions."""
    model, x, t, given = network(arch), torch.randn(3, 5, 8), torch.rand(3), told()
    found, order = model(x, t, **given), torch.tensor([1, 0, 2, 3])
    assert not torch.allclose(model(x, t, **{**given, "image": given["image"][:, order]}), found, atol=1e-4)
    whole = {**given, "text_mask": torch.ones(3, 5) > 0}
    words = {**whole, "text": given["text"][:, torch.tensor([4, 3, 2, 1, 0])]}
    assert torch.allclose(model(x, t, **words), model(x, t, **whole), atol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_dropped_missing_and_without_tokens_are_the_same(arch):
    model, x, t, given = network(arch, num_classes=2), torch.randn(3, 5, 8), torch.rand(3), told()
    label = torch.tensor([0, 1, 1])
    columns = list(KINDS)
    for kind in ("image", "text"):
        drop = torch.zeros(3, len(KINDS), dtype=torch.bool)
        drop[:, columns.index(kind)] = True
        left = {name: value for name, value in given.items() if not name.startswith(kind)}
        dropped = model(x, t, label, None, drop, **given)
        assert torch.allclose(dropped, model(x, t, label, **left), atol=1e-5)
        bare = {**given, f"{kind}_mask": torch.zeros(given[kind].shape[:2]) > 0}
        assert torch.allclose(dropped, model(x, t, label, **bare), atol=1e-5)
        assert not torch.allclose(dropped[:2], model(x, t, label, **given)[:2], atol=1e-3)
    everything = model(x, t, label, None, torch.ones(3) > 0, **given)
    assert torch.allclose(everything, model(x, t), atol=1e-5)


def test_cross_attention_is_that_of_plain_pytorch():
    """The DiT's block against `torch.nn.functional`, head by head, in float64, with both kinds in one memory."""
    model, given = (
        network("bezier_sketch_dit").double(),
        {k: v.double() if v.is_floating_point() else v for k, v in told().items()},
    )
    x, t = torch.randn(3, 5, 8, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    _, memory = model.conditions(x, t, None, None, None, **given)
    tokens, seen = memory
    h = torch.randn(3, 5, 16, dtype=torch.float64)
    cross = model.blocks[0].cross
    found = cross(h, memory)
    image, text = model.encoded["image"], model.encoded["text"]
    normed = lambda part, raw: F.linear(F.layer_norm(raw, raw.shape[-1:], part.features.norm.weight, part.features.norm.bias),  # noqa: E731
                                        part.features.project.weight, part.features.project.bias)  # fmt: skip
    for row in range(3):
        words = int(given["text_mask"][row].sum())
        wanted = torch.cat([normed(image, given["image"][row]) + image.position, image.null[None],
                            normed(text, given["text"][row, :words]), text.null[None]])  # fmt: skip
        assert torch.allclose(tokens[row][seen[row] if seen is not None else slice(None)], wanted, atol=1e-9)
        query = F.linear(F.layer_norm(h[row], (16,), cross.norm.weight, cross.norm.bias), cross.attention.query.weight)
        key, value = F.linear(wanted, cross.attention.key_value.weight).chunk(2, dim=-1)
        heads = [
            torch.softmax(query[:, part] @ key[:, part].T / 8**0.5, -1) @ value[:, part]
            for part in (slice(0, 8), slice(8, 16))
        ]
        attended = F.linear(torch.cat(heads, -1), cross.attention.out.weight, cross.attention.out.bias)
        assert torch.allclose(found[row], h[row] + attended, atol=1e-9)


# ---- dropped and guided ----


def test_each_kind_is_dropped_at_its_rate_and_all_together():
    data = SimpleNamespace(condition_kinds=("class", "image", "text"))
    recipe = SimpleNamespace(flow=SimpleNamespace(cond_drop={"class": 0.5, "image": 0.2, "all": 0.1}))
    session: Any = SimpleNamespace(data=data, recipe=recipe, layout=Layout(500, 500, 1, 0, 1), given=None,
                                   draws=Draws(3, torch.device("cpu")))  # fmt: skip
    drawn = torch.cat([cast(torch.Tensor, draw_dropped(session, update)) for update in range(100)]).double()
    rates = dict(zip(KINDS, drawn.mean(0).tolist(), strict=True))
    for kind, rate in (("class", 0.55), ("image", 0.28), ("text", 0.1)):
        assert rates[kind] == pytest.approx(rate, abs=0.01), kind
    assert (drawn[:, 0] * drawn[:, 2]).mean() == pytest.approx((0.1 + 0.9 * 0.5 * 0.2), abs=0.01)


def test_scales_of_two_kinds_compose():
    """v(none) + a (v(image) - v(none)) + b (v(both) - v(image)), from one call on 3 B rows (arXiv 2211.09800)."""
    model, x, t = network("bezier_sketch_dit", num_classes=2), torch.randn(2, 5, 8), torch.rand(2)
    given = Conditions(class_label=torch.tensor([1, 0]), **{name: one[:2] for name, one in told().items()})
    calls = []

    def called(x, t, conditions, span=None):
        calls.append(len(x))
        return model(x, t, conditions.class_label, None, conditions.dropped, **conditions.encoded)

    v = guided(called, FlowObjective(Linear()), given, {"image": 3.0, "text": 0.5})
    with torch.no_grad():
        found = v(x, t)
        assert calls == [6] and v.evaluations(t).tolist() == [3, 3]

        def of(*names: str) -> torch.Tensor:
            return model(x, t, given.class_label, **{n: one for n, one in given.encoded.items() if n.startswith(names)})

        wanted = of("nothing") + 3.0 * (of("image") - of("nothing")) + 0.5 * (of("image", "text") - of("image"))
        assert torch.allclose(found, wanted, atol=1e-5)
        equal = guided(called, FlowObjective(Linear()), given, {"class": 2.0, "image": 2.0, "text": 2.0})(x, t)
        assert torch.allclose(equal, guided(called, FlowObjective(Linear()), given, 2.0)(x, t), atol=1e-5)
        plain = guided(called, FlowObjective(Linear()), given, {"image": 1.0, "text": 1.0})
        assert torch.allclose(plain(x, t), model(x, t, given.class_label, **given.encoded), atol=1e-6)


# ---- trained and asked for ----


def rows(count: int = 60) -> Dataset:
    """Sketches in three classes with one to three images, which show the class, and texts."""
    made = sketch_rows(count)
    labels, rng = made["class_label"], np.random.default_rng(0)
    counts = 1 + np.arange(count) % 3
    first = np.concatenate([[0], np.cumsum(counts)])
    image = rng.normal(size=(first[-1], 16, 3)).astype(np.float16) * 0.01
    image += np.repeat(labels, counts)[:, None, None].astype(np.float16)
    text = rng.normal(size=(count, 12, 26)).astype(np.float16)
    mask = np.arange(12) < (np.arange(count) % 13)[:, None]
    info = {"encoder": GRAYS, "fingerprint": "0" * 64}
    split = np.where(labels == 2, 2, np.where(np.arange(count) % 10 == 0, 1, 0)).astype(np.uint8)
    return Dataset("sketch", made["x"], labels, split=split, class_names=made["class_names"], encoded={
        "image": Encoded(image, first, None, info),
        "text": Encoded(text, np.arange(count + 1), mask, {"encoder": LETTERS, "fingerprint": "1" * 64}),
    })  # fmt: skip


def recipe(folder: Path, **sections: Any) -> dict[str, Any]:
    table: dict[str, Any] = {
        "run": {"name": "run", "dir": str(folder)}, "data": {"source": str(folder / "rows.safetensors")},
        "model": {"arch": "bezier_sketch_dit", "embed_dim": 8, "num_layers": 1, "num_heads": 2},
        "train": {"steps": 2, "batch_size": 8}, "sample": {"every": 0, "steps": 2, "num_samples": 3},
    }  # fmt: skip
    return {name: {**table.get(name, {}), **sections.get(name, {})} for name in table.keys() | sections.keys()}


def test_which_image_is_shown_depends_on_seed_and_update_alone():
    data = rows()
    normalizer = SimpleNamespace(normalize_rows=lambda x, rows, move: move(torch.from_numpy(x[rows])))
    make = lambda rank, world, micro: Batches(data, cast(Any, normalizer), Layout(8, micro, 8 // (micro * world), rank, world), 3,  # noqa: E731
                                              torch.device("cpu"))  # fmt: skip
    whole = make(0, 1, 8)
    assert not whole.resident
    for update in (0, 5):
        wanted = whole.of(update).conditions.image
        ranks = [make(rank, 2, 2) for rank in range(2)]
        shared = torch.empty_like(cast(torch.Tensor, wanted))
        for one in ranks:
            shared[one.indices] = cast(torch.Tensor, one.of(update).conditions.image)
            one.close()
        assert torch.equal(shared, cast(torch.Tensor, wanted))
        window = whole.window(update, 2).conditions.image
        assert torch.equal(cast(torch.Tensor, window)[:8], cast(torch.Tensor, wanted))
    seen = {whole.of(update).conditions.image[place].numpy().tobytes() for update in range(40) for place in range(8)}  # pyright: ignore[reportOptionalSubscript]
    assert len(seen) == len(data.encoded["image"].items(data.rows("train"))[0]), (
        "every image has its turn, not only the first of each row"
    )
    whole.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> flowkit.LoadedModel:
    folder = tmp_path_factory.mktemp("run")
    write_dataset(folder / "rows", rows())
    return flowkit.train(recipe(folder))


def test_what_is_asked_for_reaches_the_network(model, tmp_path):
    Image.new("RGB", (32, 32), (255, 0, 0)).save(tmp_path / "red.png")
    with trusting():
        red = model.sample(4, image=tmp_path / "red.png", seed=1)
        gray = model.sample(4, image=Image.new("L", (32, 32), 128), seed=1)
        arrays = model.sample(4, image=[np.full((32, 32, 3), 128, np.uint8)], seed=1)
        both = model.sample(4, image=[str(tmp_path / "red.png")] * 2, text=["a cat", "owls"], seed=1)
        Grays.calls.clear()
        model.sample(12, image=[tmp_path / "red.png", np.zeros((9, 9))], seed=1)
        spread = model.conditions(4, None, None, image=[tmp_path / "red.png", np.zeros((9, 9))]).image
    assert (
        torch.equal(spread[0], spread[1])
        and torch.equal(spread[2], spread[3])
        and not torch.equal(spread[1], spread[2])
    )
    assert Grays.calls[0] == 2, "each image is encoded once"
    assert red.info["asked"] == [str(tmp_path / "red.png")] and both.info["asked"] == [str(tmp_path / "red.png")] * 2
    assert np.array_equal(gray.x, arrays.x) and not np.array_equal(gray.x, red.x) and not np.array_equal(both.x, red.x)
    assert red.class_label is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"image": "nowhere.png"}, "nowhere.png: does not exist"), ({"image": np.zeros((1, 1))}, "image: is too small"),
        ({"image": []}, "image: 0 for 4 samples"), ({"image": [np.zeros((9, 9))] * 3}, "image: 3 for 4 samples"),
        ({"text": "word " * 13}, "Letters reads at most 12 tokens"),
        ({"text": "a", "guidance_scale": {"condition": 2.0}}, "guidance_scale: condition: this model was trained without it"),
        ({"text": "a", "guidance_scale": {"text": 2.0}, "guidance": "cfg_zero"}, "needs plain guidance"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for(model, asked, said):
    with trusting(), pytest.raises(UserError, match=said):
        model.sample(4, **asked)


def test_another_encoder_is_refused(model, tmp_path):
    (tmp_path / "weights").write_text("f" * 64)
    loaded = flowkit.load(model.files.directory)
    loaded.encoder_weights = {"image": tmp_path / "weights"}
    with trusting(), pytest.raises(UserError, match="other weights than the one that the model was trained with"):
        loaded.sample(1, image=np.zeros((9, 9)))


def test_models_without_images_say_so(tmp_path):
    write_dataset(tmp_path / "rows", rows())
    plain = flowkit.train(recipe(tmp_path, data={"conditions": ["class"]}))
    assert plain.info["model_args"]["image_dim"] == 0 and plain.class_names
    with pytest.raises(UserError, match=r"image: this model was trained without images; it has class"):
        plain.sample(1, image=np.zeros((9, 9)))
    with pytest.raises(UserError, match="text: this model was trained without texts"):
        plain.sample(1, text="a cat")
    only = flowkit.train(recipe(tmp_path, data={"conditions": ["text"]}, run={"name": "text"}))
    assert not only.class_names and only.condition_kinds == ("text",)
    with pytest.raises(UserError, match=r"data.conditions: .* has no condition; it has class, image, text"):
        flowkit.train(recipe(tmp_path, data={"conditions": ["condition"]}, run={"name": "no"}))
    with pytest.raises(UserError, match="guidance_scale: names condition, but the data has only class, image, text"):
        flowkit.train(recipe(tmp_path, sample={"guidance_scale": {"condition": 2.0}}, run={"name": "no"}))


def test_evaluate_asks_for_seen_and_unseen_drawings(model):
    from flowkit.evaluate import evaluate_checkpoint

    with trusting():
        found = evaluate_checkpoint(model.files.directory, num_samples=20, scales=(2.0,))
    shown = found.settings["shown"]
    assert shown["rows"] == {"seen": 4, "unseen": 20} and set(shown["by"]) == {"image", "text", "image and text"}
    for scales in shown["by"].values():
        assert set(scales) == {"1", "2"}
        for one in scales.values():
            assert one["candidates"] == 24 and set(one["groups"]) == {"all", "seen", "unseen"}
            assert set(one["groups"]["unseen"]["retrieval"]) == {"ink", "encoder"} and 0 <= one["precision"] <= 1
    assert "shows its image" in found.facts and "which also conditioned the model" in found.facts["shows its image"]
    assert sum(Path(file).name.startswith("shows-") for file in found.files) == 3 and all(
        Path(file).is_file() for file in found.files
    )


def test_perfect_samples_are_found(model, monkeypatch):
    """The true drawings themselves, as samples: first among all, and at no distance."""
    from flowkit.sketch.asked import _held_out, measure_shown

    data, real = rows(), type(model).sample
    pool, _ = _held_out(data, data.rows("train"))

    def perfect(self, count, **how):
        return replace(real(self, count, **how), x=data.x[np.resize(pool, count)])

    monkeypatch.setattr(type(model), "sample", perfect)
    with trusting():
        found = measure_shown(model, data, settings=model.settings()).found["image and text"]["1"]
    for group in found.groups.values():
        assert group.retrieval["ink"]["samples"]["top1"].value == pytest.approx(1)
        assert group.distances["samples"]["chamfer"].value == pytest.approx(0, abs=1e-6)


def test_the_command_line_from_files_to_a_sheet(folders, monkeypatch, capsys):
    """With the packaged encoders, as a user types it."""
    monkeypatch.chdir(folders.root)
    Path("tags.json").write_text(json.dumps({f"cat/cat{place}.svg": ["cat", "pet"] for place in range(8)}))

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            run_flowkit(*words)
        return int(stopped.value.code or 0)

    assert not run("prepare", "drawings", "--out", "data/mine", "--images", "render", "--variants", "1", "--image-encoder",
                "efficientnet-lite0@pooled", "--texts", "tags.json", "--join-texts", "--text-encoder", "minilm", "--hold-out",
                "owl")  # fmt: skip
    assert not run("train", "quickstart", "--set", "data.source=data/mine.safetensors", "--set", "train.steps=2", "--set",
                "train.batch_size=4", "--set", "model.embed_dim=8", "--set", "model.num_layers=1", "--set", "model.num_heads=2",
                "--set", "sample.every=0", "--set", "run.name=mine", "--set", "data.conditions=['image', 'text']")  # fmt: skip
    assert not run("sample", "runs/mine", "--image", "photos/cat/cat1.png", "--image", "photos/cat/cat2.png", "--text", "a cat",
                "-n", "3", "--steps", "2", "-w", "image=2,text=1.5", "--out", "out")  # fmt: skip
    sheet = Image.open("out/sheet.png")
    assert len(list(Path("out").glob("*.svg"))) == 6 and sheet.width > sheet.height
    assert (Path("out") / "000-cat1.svg").is_file() and (Path("out") / "003-cat2.svg").is_file()
    made = json.loads(Path("out/samples.json").read_text())
    assert made["guidance_scale"] == {"image": 2.0, "text": 1.5} and made["nfe"] == 2 * 2 * 3
    for words, said in (
        (("--image", "photos/cat/nothing.png"), "photos/cat/nothing.png: does not exist"),
        (("--text", "a", "-w", "image=x"), "-w image=x: expected a number"),
        (("--image", "photos", "-n", "1"), "photos: is a folder"),
        (("--image", "photos/owl/owl1.png"), "owl1.png: is not a picture"),
    ):
        assert run("sample", "runs/mine", *words) == 2 and said in " ".join(capsys.readouterr().err.split())


def test_item_zero_is_what_rows_are_given_with(model):
    data = rows()
    given = model.given_with(data, np.array([4, 2]))
    assert torch.equal(
        cast(torch.Tensor, given.image),
        torch.from_numpy(data.encoded["image"].tokens[data.encoded["image"].first[[4, 2]]]),
    )
    assert given.kinds == ("class", "image", "text") == conditions_of(data, np.array([1])).kinds


def test_a_resumed_run_sees_the_same_images(tmp_path):
    """Which of a row's images is shown depends on the update, and the rows are read ahead of it."""
    write_dataset(tmp_path / "rows", rows())

    def train(name: str, steps: int, seed: int = 0, **how: Any) -> dict[str, torch.Tensor]:
        sections = {"run": {"name": name, "seed": seed}, "optim": {"schedule": "constant", "warmup": 0},
                    "train": {"steps": steps, "save_every": 2, "val_every": "never"}}  # fmt: skip
        return flowkit.train(recipe(tmp_path, **sections), **how).model.state_dict()

    whole = train("whole", 4)
    train("parts", 2)
    resumed = train("parts", 4, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(one, whole[name]) for name, one in train("other", 4, seed=1).items())
