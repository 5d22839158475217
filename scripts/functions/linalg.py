"""LinAlg: solve a system of linear equations with numpy and check the solution."""

import numpy as np


def main(args):
    """args: {"n": order, "seed": seed}. Answers the residual of the solution and the determinant's sign."""
    n = int(args.get("n", 120))
    if not 1 <= n <= 4000:
        return {"error": "n must be between 1 and 4000"}
    rng = np.random.default_rng(int(args.get("seed", 0)))
    a = rng.standard_normal((n, n)) + n * np.eye(n)
    x = rng.standard_normal(n)
    solved = np.linalg.solve(a, a @ x)
    sign, _ = np.linalg.slogdet(a)
    residual = float(np.max(np.abs(solved - x)))
    return {"n": n, "residual": residual, "sign": float(sign), "ok": residual < 1e-8}
