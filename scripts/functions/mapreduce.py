"""MapReduce: count words with a pool of processes (multiprocessing), and check the sum."""

import multiprocessing
import random

WORDS = "memory page base patch warm cold node sandbox chunk index policy trace".split()


def count(lines):
    """The map step: words of some lines."""
    counts = {}
    for line in lines:
        for word in line.split():
            counts[word] = counts.get(word, 0) + 1
    return counts


def main(args):
    """args: {"lines": count, "workers": processes, "seed": seed}. Answers the counts. The pool ends with the call."""
    n, workers = int(args.get("lines", 2000)), int(args.get("workers", 2))
    if not (1 <= n <= 1_000_000 and 1 <= workers <= 64):
        return {"error": "lines must be between 1 and 1000000, workers between 1 and 64"}
    rng = random.Random(int(args.get("seed", 0)))
    lines = [" ".join(rng.choices(WORDS, k=8)) for _ in range(n)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        parts = pool.map(count, [lines[i::workers] for i in range(workers)])
        pool.close()
        pool.join()
    total = {}
    for part in parts:
        for word, times in part.items():
            total[word] = total.get(word, 0) + times
    return {"counts": total, "ok": sum(total.values()) == 8 * n}
