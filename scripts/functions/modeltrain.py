"""ModelTrain: train a logistic regression on generated reviews with scikit-learn and test it."""

import random

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

GOOD = "good fresh sweet quick fine love great perfect".split()
BAD = "bad stale bitter slow poor hate awful broken".split()
PLAIN = "tea coffee box price taste smell today again".split()


def main(args):
    """args: {"reviews": count, "seed": seed}. Answers the accuracy on the half not trained on."""
    n = int(args.get("reviews", 600))
    if not 20 <= n <= 100_000:
        return {"error": "reviews must be between 20 and 100000"}
    rng = random.Random(int(args.get("seed", 0)))
    rows = []
    for i in range(n):
        words = rng.choices(GOOD if i % 2 else BAD, k=3) + rng.choices(PLAIN, k=6)
        rng.shuffle(words)
        rows.append((" ".join(words), i % 2))
    frame = pd.DataFrame(rows, columns=["text", "label"])
    features = TfidfVectorizer().fit_transform(frame["text"])
    half = n // 2
    model = LogisticRegression(max_iter=200).fit(features[:half], frame["label"][:half])
    accuracy = float(np.mean(model.predict(features[half:]) == frame["label"][half:]))
    return {"accuracy": accuracy, "ok": accuracy > 0.95}
