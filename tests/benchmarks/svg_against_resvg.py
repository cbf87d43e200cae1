"""How the SVG reader compares with resvg on real icon sets: what it reads that is not painted, and what it misses.

    python tests/benchmarks/svg_against_resvg.py lucide/ bootstrap-icons.zip ... [--each 200] [--worst 20 --pictures worst/]

Every file is rendered at 256 px, its longer side. Two shares are taken for each:
unpainted: of the length of all curves that were read, how much lies more than 2 px from any painted pixel;
missed: of the painted outline, how much lies more than 2 px from any curve that was read. The outline is where colors
change in a picture with lines drawn thin, so that a line counts by its center and an area by its edge.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from flowkit.errors import UserError
from flowkit.sketch import bezier
from flowkit.sketch.svg_read import read_svg

SIDE = 256
FAR = 2.0  # px
STEP = 24  # of 255: a change of color that counts as an edge


@dataclass(frozen=True)
class Result:
    name: str
    unpainted: float
    missed: float


def files_of(source: Path, each: int | None) -> Iterator[tuple[str, bytes]]:
    """Every file, or `each` of them spread evenly over the sorted names."""
    archive = zipfile.ZipFile(source) if source.is_file() else None
    if archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".svg")]
    else:
        names = [str(path) for path in source.rglob("*.svg") if path.is_file()]
    names.sort()
    if each and len(names) > each:
        names = [names[i * len(names) // each] for i in range(each)]
    for name in names:
        yield name, archive.read(name) if archive else Path(name).read_bytes()


def picture(text: str, style_sheet: str | None = None, size: int | None = SIDE) -> np.ndarray | None:
    """RGBA, premultiplied, (h, w, 4) with a longer side of SIDE; None where resvg refuses."""
    for side in ("width", "height"):
        try:
            png = resvg_py.svg_to_bytes(
                svg_string=text,
                dpi=96,
                skip_system_fonts=True,
                style_sheet=style_sheet,
                languages=["en"],
                **{side: size},
            )
        except ValueError:
            return None
        pixels = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA")).astype(np.float32)
        if size is None or max(pixels.shape[:2]) <= size:
            break
    pixels[..., :3] *= pixels[..., 3:] / 255
    return pixels


def thin(text: str) -> str:
    """A style sheet that draws lines a pixel wide, but those that have no width."""
    box = re.search(r'viewBox\s*=\s*["\']([^"\']*)', text)
    numbers = [float(n) for n in re.findall(r"[-+.\deE]+", box[1])] if box else []
    if len(numbers) != 4:
        natural = picture(text, size=None)
        numbers = [0, 0, *(natural.shape[:2] if natural is not None else (SIDE, SIDE))]
    return f"*{{stroke-width:{max(numbers[2:]) / SIDE:.6g} !important}}"


def outline(pixels: np.ndarray) -> np.ndarray:
    """Whether a pixel's color differs from that of its right or lower neighbor."""
    edge = np.zeros(pixels.shape[:2], bool)
    edge[:, :-1] |= np.abs(np.diff(pixels, axis=1)).max(-1) > STEP
    edge[:-1] |= np.abs(np.diff(pixels, axis=0)).max(-1) > STEP
    return edge


def dense(strokes: list[np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) in pixels along what was read, and the length (n,) that each stands for."""
    if not strokes:
        return np.zeros((0, 2)), np.zeros(0)
    cubics = np.concatenate(strokes) * (SIDE / 2) + np.tile(np.array(shape[::-1]) / 2, 4)
    reach = np.linalg.norm(np.diff(cubics.reshape(-1, 4, 2), axis=1), axis=-1).sum(1)
    points, lengths = [], []
    for chosen, count in ((reach <= 8, 9), ((reach > 8) & (reach <= 64), 65), (reach > 64, 513)):
        flat = bezier.points(cubics[chosen], np.linspace(0, 1, count))
        points.append(((flat[:, :-1] + flat[:, 1:]) / 2).reshape(-1, 2))
        lengths.append(np.linalg.norm(np.diff(flat, axis=1), axis=-1).ravel())
    return np.concatenate(points), np.concatenate(lengths)


def compared(name: str, data: bytes) -> tuple[Result, np.ndarray, np.ndarray] | str:
    """The two shares with the picture and the points; or why there are none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "not UTF-8"
    pixels = picture(text)
    if pixels is None:
        return "refused by resvg"
    if not re.search(r"viewBox\s*=|<svg[^>]*\swidth\s*=\s*[\"'][\d.]", text):
        return "without a size"
    try:
        strokes = read_svg(data)
    except UserError as problem:
        return f"refused: {problem}"[:60]
    painted = pixels[..., 3] > 0
    points, lengths = dense(strokes, pixels.shape[:2])
    unpainted = missed = 0.0
    if lengths.sum() > 0:
        if painted.any():
            at = np.floor(points).astype(int)
            held = np.clip(at, 0, np.array(pixels.shape[1::-1]) - 1)
            gap = np.asarray(distance_transform_edt(~painted))[held[:, 1], held[:, 0]]
            gap = gap + np.linalg.norm(at - held, axis=1)
        else:
            gap = np.full(len(points), np.inf)
        unpainted = float(lengths[gap > FAR].sum() / lengths.sum())
    fine = picture(text, thin(text))
    edge = outline(fine if fine is not None and fine.shape == pixels.shape else pixels)
    edge &= np.asarray(distance_transform_edt(~painted)) <= 1
    if edge.any():
        centers = np.argwhere(edge)[:, ::-1] + 1.0
        near = cKDTree(points).query(centers)[0] if len(points) else np.full(len(centers), np.inf)
        missed = float((near > FAR).mean())
    return Result(name, unpainted, missed), pixels, points


def draw(result: tuple[Result, np.ndarray, np.ndarray], path: Path) -> None:
    """The renderer's picture at the left, with what was read in red at the right."""
    _, pixels, points = result
    paper = pixels[..., :3] + (255 - pixels[..., 3:])
    ours = paper * 0.3 + 178
    at = np.floor(points).astype(int)
    at = at[(at >= 0).all(1) & (at < np.array(pixels.shape[1::-1])).all(1)]
    ours[at[:, 1], at[:, 0]] = (220, 0, 0)
    Image.fromarray(np.concatenate([paper, ours], axis=1).clip(0, 255).astype(np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="folders or zips of SVG files")
    parser.add_argument("--each", type=int, help="at most so many files of each source")
    parser.add_argument("--worst", type=int, default=0, help="name so many of the worst files")
    parser.add_argument("--pictures", type=Path, help="draw those into this folder")
    options = parser.parse_args()
    every: list[tuple[Result, bytes]] = []
    print(f"{'source':36} files  not compared | unpainted: median  >1% | missed: median  >1%")
    for source in [*options.sources, None]:
        found: list[tuple[Result, bytes]] = []
        why: dict[str, int] = {}
        for name, data in files_of(source, options.each) if source else ():
            result = compared(name, data)
            if isinstance(result, str):
                why[result] = why.get(result, 0) + 1
            else:
                found.append((result[0], data))
        every += found
        a, b = (
            np.array([getattr(r[0], k) for r in (found if source else every)] or [0]) for k in ("unpainted", "missed")
        )
        print(f"{source.name if source else 'all':36} {len(found if source else every):5}  {sum(why.values()):12} | "
              f"{np.median(a):17.4%} {(a > 0.01).mean():5.1%} | {np.median(b):14.4%} {(b > 0.01).mean():5.1%}"
              + ("  " + "; ".join(f"{n} {reason}" for reason, n in why.items()) if why else ""))  # fmt: skip
        sys.stdout.flush()
    for key in ("unpainted", "missed"):
        ranked = sorted(every, key=lambda r: -getattr(r[0], key))[: options.worst]
        for i, result in enumerate(ranked):
            print(f"{key} {getattr(result[0], key):7.2%}  {result[0].name}")
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                again = compared(result[0].name, result[1])
                assert not isinstance(again, str)
                draw(again, options.pictures / f"{key}-{i:02}.png")


if __name__ == "__main__":
    main()
