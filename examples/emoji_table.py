"""How the table of `fusetune demo` was made: run it beside an unpacked `npm pack emoji-datasource-google@16.0.0`.

    python examples/emoji_table.py package src/fusetune/datasets/emoji.parquet

Pictures are made 48 pixels wide and written as WebP, so that 1,250 of them take 1.7 MB. Ids are hashes, since code
points lie in blocks that tell the category. Left out are people (hundreds of variants of a few), flags and parts.
"""

import hashlib
import io
import json
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

LEFT_OUT = ("People & Body", "Flags", "Component")


def main(package: Path, target: Path) -> None:
    """Write the table from the folder of the package."""
    rows = []
    for one in json.loads((package / "emoji.json").read_text("utf-8")):
        if one["category"] in LEFT_OUT or not one["has_img_google"]:
            continue
        picture = Image.open(package / "img/google/64" / one["image"]).convert("RGBA")
        file = io.BytesIO()
        picture.resize((48, 48), Image.Resampling.LANCZOS).save(file, "WEBP", quality=80, method=6)
        rows.append(
            {
                "id": hashlib.sha256(one["unified"].encode()).hexdigest()[:12],
                "picture": file.getvalue(),
                "name": (one["name"] or one["short_name"]).lower(),
                "since": float(one["added_in"]),
                "kind": one["subcategory"],
                "category": one["category"],
            }
        )
    pd.DataFrame(rows).sort_values("id", ignore_index=True).to_parquet(target, index=False)
    print(f"{len(rows)} rows, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
