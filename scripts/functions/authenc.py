"""AuthEnc: encrypt and decrypt a message with AES in counter mode (pyaes, pure Python), and authenticate it."""

import hashlib
import hmac
import json

import pyaes


def main(args):
    """args: {"bytes": length, "seed": seed}. Answers the message's tag; decryption must give the message back."""
    n = int(args.get("bytes", 4096))
    if not 1 <= n <= 10_000_000:
        return {"error": "bytes must be between 1 and 10000000"}
    key = hashlib.sha256(b"key %d" % int(args.get("seed", 0))).digest()
    text = (json.dumps({"user": "medes", "n": n}) * (n // 20 + 1)).encode()[:n]
    sealed = pyaes.AESModeOfOperationCTR(key).encrypt(text)
    tag = hmac.new(key, sealed, hashlib.sha256).hexdigest()
    opened = pyaes.AESModeOfOperationCTR(key).decrypt(sealed)
    return {"tag": tag, "ok": opened == text and sealed != text}
