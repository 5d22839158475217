"""FeatureGen: TF-IDF features of short reviews with pandas and scikit-learn."""

import random

import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

WORDS = "good bad fresh stale warm cold sweet bitter quick slow fine poor taste smell price box tea coffee".split()


def main(args):
    """args: {"reviews": count, "seed": seed}. Answers the shape of the feature matrix; each row has length one."""
    n = int(args.get("reviews", 400))
    if not 2 <= n <= 100_000:
        return {"error": "reviews must be between 2 and 100000"}
    rng = random.Random(int(args.get("seed", 0)))
    frame = pd.DataFrame({"text": [" ".join(rng.choices(WORDS, k=12)).upper() for _ in range(n)]})
    frame["text"] = frame["text"].str.lower().str.replace("[^a-z ]", "", regex=True)
    matrix = TfidfVectorizer(min_df=1).fit_transform(frame["text"])
    squares = matrix.multiply(matrix).sum(axis=1)
    return {"rows": matrix.shape[0], "features": matrix.shape[1], "ok": bool(abs(squares - 1.0).max() < 1e-9)}
