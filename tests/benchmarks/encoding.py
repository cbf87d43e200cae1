"""Pictures encoded per second by flowkit against a plain timm loop with the same model, transform, batches and features.

    python -m tests.benchmarks.encoding [--encoder efficientnet-lite0] [--images 64] [--rounds 9] [--files]

Pictures are 256 x 256 and decoded beforehand. --files reads photos of 1,600 x 1,200 from JPEG files in the timing: flowkit
decodes them at half their size, the plain loop at full size. Packaged weights suffice; other timm models get random ones.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from flowkit.encoders import SHORT, open_encoder
from flowkit.encoders.pictures import read_image
from tests.benchmarks.paired import machine, paired


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--files", action="store_true")
    arguments = parser.parse_args()
    packaged = arguments.encoder.startswith("efficientnet-lite0")
    with tempfile.TemporaryDirectory() as folder:
        name = SHORT["image"].get(arguments.encoder, arguments.encoder)
        model = "tf_efficientnet_lite0" if packaged else name.partition("@")[0].partition(":")[2]
        weights = None
        if not packaged:
            weights = Path(folder) / "random.pth"
            torch.save(timm.create_model(model, num_classes=0).state_dict(), weights)
        encoder = open_encoder(name, "image", weights=weights, device=arguments.device, batch_size=arguments.batch_size)
        level = encoder.name.rpartition("@")[2]
        device = torch.device("cuda" if torch.cuda.is_available() and arguments.device == "auto" else "cpu")
        if level[0].isdigit():
            strides = [one["reduction"] for one in timm.create_model(model).feature_info]
            stage = strides.index(int(level.partition("x")[0]))
            plain = timm.create_model(model, features_only=True, out_indices=[stage]).to(device).eval()
            features = lambda x: plain(x)[0]  # noqa: E731
        else:
            plain = timm.create_model(model, num_classes=0).to(device).eval()
            features = plain.forward_features if level == "tokens" else plain
        config = resolve_model_data_config(timm.create_model(model))
        transform = create_transform(**{**config, "crop_pct": 1.0}, is_training=False)
        rng = np.random.default_rng(0)
        size = (1600, 1200) if arguments.files else (256, 256)
        small = [Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)) for _ in range(arguments.images)]
        pictures = [picture.resize(size, Image.Resampling.BICUBIC) for picture in small]
        paths = [Path(folder) / f"{number}.jpg" for number in range(len(pictures))]
        if arguments.files:
            for path, picture in zip(paths, pictures, strict=True):
                picture.save(path)

        def by_flowkit() -> None:
            encoder.encode([read_image(path) for path in paths] if arguments.files else pictures)

        @torch.no_grad()
        def by_timm() -> None:
            images = [Image.open(path).convert("RGB") for path in paths] if arguments.files else pictures
            for start in range(0, len(images), 32):
                batch = torch.stack([transform(image) for image in images[start : start + 32]])  # type: ignore[misc]
                features(batch.to(device)).half().cpu().numpy()

        a, b, ratio = paired(by_timm, by_flowkit, arguments.rounds)
        print(f"{machine()}; {encoder.name}, {len(pictures)} pictures of {size[0]} x {size[1]}")
        print(
            f"flowkit {len(pictures) / b:.1f}, a plain timm loop {len(pictures) / a:.1f} pictures a second; ratio {ratio:.3f}"
        )


if __name__ == "__main__":
    main()
