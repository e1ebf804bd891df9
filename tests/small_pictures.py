"""Small pictures, parquet files of them, and the one line that an error is."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(file, cells: list, labels, names=None, image="image", label="label"):
    """A parquet file in the hub's layout; with `names`, in the schema of `datasets`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({image: [{"bytes": c, "path": None} for c in cells], label: labels})
    if names:
        features = {image: {"_type": "Image"},
                    label: {"names": list(names), "_type": "ClassLabel"}}  # fmt: skip
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    pq.write_table(table, file)
    return file


def message(call, *args, **options) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text
