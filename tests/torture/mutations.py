"""Ways to spoil a file: bytes, values in JSON, headers of safetensors."""

from __future__ import annotations

import copy
import json
import random
import struct

ODD = [None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
       "", "x", "4", "../../etc/passwd", "<script>", "\0", "é" * 50, [], {}, [[]], [0], [-1, 2],
       [1, [2, 3]], [10**6], [1] * 300, {"a": 1}, "9" * 5000]  # fmt: skip
WORDS = [b"NaN", b"Infinity", b"1e999", b"-1", b"null", b"[]", b"{}", b'"', b"\0", b"\xff\xfe",
         b"99999999999999999999", b"0", b",", b"\n", b"\r", b"[" * 3000, b"\\u0000"]  # fmt: skip
SIDES = [0, 1, 3, -1, 2**20, 2**31, 2**40, 2**62]


def spoil(content: bytes, rng: random.Random) -> bytes:
    """One to three random changes to bytes of any kind."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice((1, 1, 2, 4, 8, 64)))
        middle = content[at:end]
        if not middle or rng.random() < 0.1:  # the end of a download
            content = content[:at]
            continue
        flipped = bytes([middle[0] ^ 1 << rng.randrange(8)]) + middle[1:]
        filled = rng.choice((b"\0", b"\xff", b"9")) * len(middle)
        word = rng.choice(WORDS) + middle
        new = (flipped, flipped, rng.randbytes(len(middle)), filled, b"", word, middle * 2)
        content = content[:at] + rng.choice(new) + content[end:]
    return content


def spoil_json(content: bytes, rng: random.Random) -> bytes:
    """A value replaced by an odd one, a key dropped or added; or bytes."""
    if rng.random() < 0.3:
        return spoil(content, rng)
    tree = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = rng.choice(places)
        odd = copy.deepcopy(rng.choice(ODD))  # or a list may come to hold itself
        if rng.random() < 0.15:
            del holder[key]
        elif rng.random() < 0.1 and isinstance(holder, dict):
            holder[f"{key}{rng.randrange(9)}"] = odd
        else:
            holder[key] = odd
    return json.dumps(tree).encode()


def _places(tree):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def spoil_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Shapes, types, offsets and names in the header, NaN in the numbers; or bytes."""
    if rng.random() < 0.4:
        return spoil(content, rng)
    size = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = rng.choice([k for k in header if k != "__metadata__"])
    entry, kind = header[name], rng.randrange(6)
    if kind == 0:
        entry["shape"] = [rng.choice(SIDES) for _ in range(rng.randrange(5))]
    elif kind == 1:
        entry["shape"] = entry["shape"][::-1]
    elif kind == 2:
        entry["dtype"] = rng.choice(["F64", "I32", "F8_E4M3", "BOOL", "C64", "U16", "F99", 3])
    elif kind == 3:
        entry["data_offsets"] = [rng.choice(SIDES), rng.choice(SIDES)]
    elif kind == 4:
        header[rng.choice(["", "x", name + ".y", "../z"])] = header.pop(name)
    else:
        at = rng.randrange(0, max(1, len(body) - 4), 4)
        number = struct.pack("<f", rng.choice((float("nan"), float("inf"))))
        body = body[:at] + number + body[at + 4 :]
    text = json.dumps(header).encode()
    length = len(text) if rng.random() < 0.9 else rng.choice((0, 7, 2**20, 2**40, 2**63))
    return struct.pack("<Q", length) + text + body
