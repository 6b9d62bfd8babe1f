"""Write data/prompts/requests.jsonl: short messages to write, for params/rlhf.yaml.

    python scripts/make_requests.py

The same bytes at each run. A held-out prompt has a recipient, an aim and a subject that stand together in no training
prompt. `subject` has the words that an answer on the subject uses, for the gold reward (reward_functions/courtesy.py).
"""

import itertools
import json
import random
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "data" / "prompts" / "requests.jsonl"
TRAIN, HELDOUT = 1000, 256

RECIPIENTS = [
    "a neighbour", "a colleague", "your landlord", "a teacher", "a customer", "a friend", "your manager", "a shop",
    "the library", "a doctor",
]  # fmt: skip
AIMS = {
    "ask about": "Ask {who} about {what}.",
    "complain about": "Complain to {who} about {what}.",
    "thank for": "Thank {who} for {what}.",
    "remind of": "Remind {who} of {what}.",
    "apologise for": "Apologise to {who} for {what}.",
    "say no to": "Say no to {who} about {what}.",
}
SUBJECTS = {
    "the broken window": "window", "the late train": "train", "the noisy party": "party", "the lost parcel": "parcel",
    "the old bicycle": "bicycle", "the red umbrella": "umbrella", "the borrowed ladder": "ladder",
    "the birthday cake": "cake", "the garden fence": "fence", "the monthly report": "report",
    "the football ticket": "ticket", "the piano lesson": "lesson", "the water bill": "bill",
    "the kitchen table": "table", "the missing key": "key", "the holiday photos": "photos",
    "the new contract": "contract", "the summer concert": "concert", "the warm jacket": "jacket",
    "the cooking class": "class", "the parking space": "parking", "the school trip": "trip",
    "the green tea": "tea", "the train station map": "map", "the heavy suitcase": "suitcase",
    "the spare blanket": "blanket", "the friendly dog": "dog", "the long meeting": "meeting",
    "the printed invitation": "invitation", "the apple tree": "tree",
}  # fmt: skip


def main() -> None:
    """Write the file."""
    rng = random.Random(0)
    every = list(itertools.product(AIMS, RECIPIENTS, SUBJECTS))
    lines = []
    for place, (aim, who, what) in enumerate(rng.sample(every, TRAIN + HELDOUT)):
        prompt = f"{AIMS[aim].format(who=who, what=what)} Write the message only."
        split = "train" if place < TRAIN else "heldout"
        row = {"prompt": prompt, "aim": aim, "subject": SUBJECTS[what], "split": split}
        lines.append(json.dumps(row))
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
