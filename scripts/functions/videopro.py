"""VideoPro: a clip of a moving square, turned to grey, smoothed and searched for the square's path with OpenCV."""

import cv2
import numpy as np

# One thread: a checkpoint of a sandbox should not depend on the number of cores.
cv2.setNumThreads(1)


def main(args):
    """args: {"frames": count, "seed": seed}. Answers the path found and the largest distance to the real one."""
    frames = int(args.get("frames", 24))
    if not 1 <= frames <= 1000:
        return {"error": "frames must be between 1 and 1000"}
    rng = np.random.default_rng(int(args.get("seed", 0)))
    worst = 0.0
    path = []
    for i in range(frames):
        frame = rng.integers(0, 60, (240, 320, 3), dtype=np.uint8)
        x, y = 20 + (i * 7) % 260, 20 + (i * 5) % 180
        cv2.rectangle(frame, (x, y), (x + 20, y + 20), (255, 255, 255), -1)
        grey = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (5, 5), 0)
        _, mask = cv2.threshold(grey, 160, 255, cv2.THRESH_BINARY)
        m = cv2.moments(mask, binaryImage=True)
        cx, cy = m["m10"] / m["m00"], m["m01"] / m["m00"]
        path.append([round(cx, 1), round(cy, 1)])
        worst = max(worst, abs(cx - x - 10), abs(cy - y - 10))
    return {"frames": frames, "last": path[-1], "worst_px": worst, "ok": worst < 2.0}
