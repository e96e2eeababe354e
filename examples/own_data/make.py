"""Data of nobody, to try a csv task with: bright or dark squares on one side of a picture, questions and reports.

python make.py        # writes pictures/, questions.csv and reports.csv beside this file
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
SPLITS = ("train", "train", "validate", "test", "test", "test")


def main() -> None:
    """Draw sixty pictures of thirty patients, and write a question and a report about each."""
    draw = random.Random(0)
    (HERE / "pictures").mkdir(exist_ok=True)
    questions, reports = [], []
    for number in range(60):
        side, brightness = draw.choice(("left", "right")), draw.choice(("bright", "dark"))
        image = Image.new("L", (96, 96), 90)
        left = 12 if side == "left" else 52
        ImageDraw.Draw(image).rectangle((left, 32, left + 32, 64), fill=220 if brightness == "bright" else 20)
        image.save(HERE / "pictures" / f"{number}.png")
        patient = f"p{number // 2}"
        about = {
            "id": f"study{number}",
            "patient": patient,
            "images": f"pictures/{number}.png",
            "split": SPLITS[number // 2 % len(SPLITS)],
            "site": "north" if number // 2 % 3 else "south",
        }
        questions.append({**about, "question": "Is the square on the left or on the right?", "reference": side})
        report = f"There is a {brightness} square. It is on the {side}. There is no circle."
        reports.append({**about, "indication": "Search for a square.", "reference": report})
    for name, rows in (("questions.csv", questions), ("reports.csv", reports)):
        with open(HERE / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
