"""Cuts the embedded subsets out of the full Fashion-MNIST and CIFAR-10 parquet files.

    python scripts/data/make_subsets.py --source FOLDER

Of each class those pictures are taken whose checksum of seed and pixels is smallest, in the order
of that checksum. So the choice depends on nothing but the pixels and the seed: any lossless copy
of a set, in any row order, gives the same pictures. Encoded bytes are copied as they are, and so
is the schema with its class names. Pixels that were taken before (from train) are passed over.
"""

import argparse
import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from varmini.data import EMBEDDED
from varmini.data.loading import KNOWN, find_folder
from varmini.data.pictures import decode
from varmini.data.sources import find_columns, parquet_files, read_parquet, read_rows

COUNTS = {  # images a class
    "fashion-subset": {"train": 1000, "test": 200},
    "cifar10-subset": {"train": 100, "test": 100},
}


def cut(rows, per_class: int, seed: int, taken: set[bytes], source: str) -> pa.Table:
    """`per_class` of the rows of each class; their pixels' checksums are added to `taken`."""
    image, label = find_columns(rows.column_names, source)
    cells, labels, classes = read_rows(rows, [], source)
    keys = []
    for row, cell in enumerate(cells[:][image]):
        picture = decode(cell, f"{source}, row {row}")
        pixels = hashlib.sha256(f"{picture.mode} {picture.size} {seed} ".encode())
        keys.append((pixels.update(picture.tobytes()), pixels.digest())[1])
    chosen, left = [], dict.fromkeys(range(len(classes)), per_class)
    for row in sorted(range(len(keys)), key=keys.__getitem__):
        if left[labels[row]] and keys[row] not in taken:
            taken.add(keys[row])
            chosen.append(row)
            left[labels[row]] -= 1
    if short := [classes[c] for c, n in left.items() if n]:
        raise ValueError(f"{source}: fewer than {per_class} different images of {short[0]!r}")
    return rows.data.table.select([image, label]).take(np.array(chosen)).combine_chunks()


def write(table: pa.Table, file: Path) -> str:
    """Writes a parquet file whole or not at all; returns its SHA-256."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    # pictures do not compress further, and plain pages are the same bytes everywhere
    pq.write_table(table, part, compression="none", use_dictionary=False, write_statistics=False)
    with open(part, "rb") as handle:
        os.fsync(handle.fileno())
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    os.replace(part, file)
    return digest


def make(source: Path, out: Path, seed: int, counts: dict[str, dict[str, int]] = COUNTS) -> None:
    """Cuts every subset in `counts` from `source` into `out`, and lists them in SHA256SUMS."""
    sums = []
    for name, parts in counts.items():
        full = name.removesuffix("-subset")
        taken: set[bytes] = set()
        for split, per_class in parts.items():
            files = parquet_files(find_folder(full, source) or source, [split])
            if not files:
                raise ValueError(f"{full}: no {split}-*.parquet in {source}")
            table = cut(read_parquet(files), per_class, seed, taken, f"{full} {split}")
            file = out / KNOWN[name][0] / f"{split}.parquet"
            sums.append(f"{write(table, file)}  {KNOWN[name][0]}/{split}.parquet")
            print(f"{file}: {len(table)} images, {file.stat().st_size / 1e6:.2f} MB")
    listing = out / "SHA256SUMS"
    part = listing.with_name("SHA256SUMS.part")
    part.write_text("".join(line + "\n" for line in sums))
    os.replace(part, listing)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--source", type=Path, default=os.environ.get("VARMINI_DATA"),
        help="folder with the full sets' parquet files, in the hub's layout",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another choice")
    options = parser.parse_args()
    if options.source is None or not options.source.is_dir():
        parser.error(f"--source {options.source}: no such folder; give it, or set VARMINI_DATA")
    try:
        make(options.source, options.out, options.seed)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
