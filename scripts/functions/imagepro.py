"""ImagePro: draw a picture, then flip, rotate, blur, shrink and compress it with Pillow, and look at the result."""

import io

import numpy as np
from PIL import Image, ImageFilter


def main(args):
    """args: {"size": pixels, "seed": seed}. Answers the sizes, and whether flip and rotation undo each other."""
    size = int(args.get("size", 256))
    if not 16 <= size <= 4096:
        return {"error": "size must be between 16 and 4096"}
    rng = np.random.default_rng(int(args.get("seed", 0)))
    coarse = rng.integers(0, 255, (size // 8, size // 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse, "RGB").resize((size, size), Image.BICUBIC)
    turned = image.transpose(Image.FLIP_LEFT_RIGHT).transpose(Image.ROTATE_180).transpose(Image.FLIP_TOP_BOTTOM)
    small = image.filter(ImageFilter.GaussianBlur(2)).resize((size // 2, size // 2)).convert("L")
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    back = Image.open(io.BytesIO(out.getvalue()))
    ok = np.array_equal(np.asarray(turned), np.asarray(image)) and back.size == (size // 2, size // 2)
    return {"width": back.size[0], "jpeg_bytes": len(out.getvalue()), "ok": bool(ok)}
