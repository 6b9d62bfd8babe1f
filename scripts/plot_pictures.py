"""Draw what `dvc plots show` shows as one PNG, without a browser: a picture for a page.

pip install vl-convert-python pillow
python scripts/plot_pictures.py docs/english-curve.png reward kl response_length entropy
"""

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import click


def specifications() -> dict[str, dict[str, Any]]:
    """Return the Vega-Lite specification of each plot of dvc.yaml, by name."""
    done = subprocess.run(["dvc", "plots", "show", "--json"], capture_output=True, text=True, check=True)
    plots = json.loads(done.stdout)["data"]
    return {name: plot[0]["content"] for name, plot in plots.items() if plot}  # without a critic, no value loss


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1)
def main(target: Path, names: tuple[str, ...]) -> None:
    """Write the plots NAMES (all without any), two to a row, to TARGET."""
    import vl_convert  # type: ignore[import-not-found, unused-ignore]
    from PIL import Image  # type: ignore[import-not-found, unused-ignore]

    specs = specifications()
    pictures = []
    for name in names or specs:
        # DVC's own width and height are "container", which only a browser can fill.
        spec = json.loads(json.dumps(specs[name]).replace('"container"', "320"))
        pictures.append(Image.open(io.BytesIO(vl_convert.vegalite_to_png(json.dumps(spec), scale=1.5))))
    width, height = (max(p.size[axis] for p in pictures) for axis in (0, 1))
    sheet = Image.new("RGB", (2 * width, -(-len(pictures) // 2) * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % 2 * width, i // 2 * height))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)


if __name__ == "__main__":
    main()
