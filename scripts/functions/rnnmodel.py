"""RNNModel: a character-level recurrent network (GRU) makes up names, on onnxruntime's CPU build.

The network has seeded weights, not trained ones: the work and the memory are those of a small text generator, and
every step is checked against the same GRU written out in numpy.
"""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LETTERS = "abcdefghijklmnopqrstuvwxyz'- ."
HIDDEN = 256


def weights():
    """The network's parameters: input W, recurrent R, bias B, output O."""
    rng = np.random.default_rng(7)
    n = len(LETTERS)
    shapes = {"W": (1, 3 * HIDDEN, n), "R": (1, 3 * HIDDEN, HIDDEN), "B": (1, 6 * HIDDEN), "O": (HIDDEN, n)}
    return {k: (rng.standard_normal(s) * 0.2).astype(np.float32) for k, s in shapes.items()}


def build(w):
    """One step of the network as an ONNX model: (letter, state) -> (scores, state)."""
    gru = helper.make_node("GRU", ["x", "W", "R", "B", "", "h"], ["", "h2"], hidden_size=HIDDEN, linear_before_reset=0)
    squeeze = helper.make_node("Squeeze", ["h2", "axis"], ["flat"])
    out = helper.make_node("MatMul", ["flat", "O"], ["y"])
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [gru, squeeze, out],
        "names",
        [info("x", TensorProto.FLOAT, [1, 1, len(LETTERS)]), info("h", TensorProto.FLOAT, [1, 1, HIDDEN])],
        [info("y", TensorProto.FLOAT, [1, len(LETTERS)]), info("h2", TensorProto.FLOAT, [1, 1, HIDDEN])],
        [numpy_helper.from_array(v, k) for k, v in w.items()]
        + [numpy_helper.from_array(np.array([0], dtype=np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


WEIGHTS = weights()
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = 1
OPTIONS.inter_op_num_threads = 1
SESSION = onnxruntime.InferenceSession(build(WEIGHTS), OPTIONS, providers=["CPUExecutionProvider"])


def by_hand(x, h):
    """The same step in numpy."""
    w, r, b = WEIGHTS["W"][0], WEIGHTS["R"][0], WEIGHTS["B"][0]
    wz, wr, wh = np.split(w, 3)
    rz, rr, rh = np.split(r, 3)
    bz, br, bh, cz, cr, ch = np.split(b, 6)
    sigmoid = lambda v: 1.0 / (1.0 + np.exp(-v))
    z = sigmoid(wz @ x + rz @ h + bz + cz)
    rt = sigmoid(wr @ x + rr @ h + br + cr)
    new = np.tanh(wh @ x + rh @ (rt * h) + bh + ch)
    return (1 - z) * new + z * h


def main(args):
    """args: {"start": letters, "length": count}. Answers the name; the two computations must agree."""
    start, length = str(args.get("start", "k")).lower(), int(args.get("length", 20))
    if not start or any(c not in LETTERS for c in start) or not 1 <= length <= 10_000:
        return {"error": "start must be letters, length between 1 and 10000"}
    state = np.zeros((1, 1, HIDDEN), dtype=np.float32)
    hand = state[0, 0]
    name, worst, scores = start, 0.0, None
    for i in range(len(start) + length):
        letter = name[i]
        x = np.zeros((1, 1, len(LETTERS)), dtype=np.float32)
        x[0, 0, LETTERS.index(letter)] = 1.0
        hand = by_hand(x[0, 0], hand)
        scores, state = SESSION.run(["y", "h2"], {"x": x, "h": state})
        worst = max(worst, float(np.max(np.abs(state[0, 0] - hand))))
        if i >= len(start) - 1:
            order = np.argsort(scores[0])
            name += LETTERS[int(order[-1 - i % 3])]
    return {"name": name[: len(start) + length], "worst": worst, "ok": worst < 1e-3}
