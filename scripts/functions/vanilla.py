"""Vanilla: plain Python with nothing but the standard library (math, time)."""

import math
import time


def main(args):
    """args: {"n": terms}. Answers an approximation of pi by the Nilakantha series, and how long it took."""
    n = int(args.get("n", 2000))
    if not 1 <= n <= 10_000_000:
        return {"error": "n must be between 1 and 10000000"}
    started = time.time()
    pi, sign = 3.0, 1.0
    for i in range(1, n + 1):
        pi += sign * 4.0 / ((2 * i) * (2 * i + 1) * (2 * i + 2))
        sign = -sign
    return {"pi": pi, "error_bound": 1.0 / n**3, "ok": abs(pi - math.pi) <= 1.0 / n**3, "s": time.time() - started}
