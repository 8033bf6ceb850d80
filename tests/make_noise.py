"""Stores values of the `noise` package, the reference of our Perlin noise: python tests/make_noise.py

The package is a C extension without wheels. With these values the lesson and the tests of Perlin noise run without a
compiler; where the package is installed (pip install 'memseg-nb[noise]') they ask it instead.
"""
from itertools import product
from pathlib import Path

import numpy as np

STORED = Path(__file__).parents[1] / "data" / "perlin" / "noise.npz"
CELLS = [(1, 1), (4, 4), (8, 2), (32, 32), (3, 5)]
PLACES = [  # where the field begins on the lattice, and its pixels
    ((0, 0), (64, 64)), ((0, 0), (96, 64)), ((.3, .61), (50, 37)), ((2, 5), (33, 70)),
    # far out the package's own coordinates, C floats, are exact only at such fractions
    ((17, 200), (64, 128)), ((.25, .625), (32, 64)), ((251.5, 253.125), (64, 32))]
LESSON = [((3, 4), start, size) for size in ((12, 12), (97, 97)) for start in ((0, 0), (7, 90), (.37, .81))]
FIELDS = [*LESSON, ((4, 4), (3, 9), (32, 32)),
          *((cells, start, size) for cells, (start, size) in product(CELLS, PLACES))]


def key(cells, start, size):
    "The name of a field in the file"
    return f"{cells[0]} x {cells[1]} cells from {start[0]}, {start[1]}; {size[0]} x {size[1]} pixels"


def step(size):
    "Every so many of a field's pixels are stored, row by row: all of a small one"
    return 1 if size[0] * size[1] <= 1024 else 23


def field(cells, start, size):
    "The package's field, pixel by pixel, (height, width)"
    from noise import pnoise2
    return np.array([[pnoise2(start[1] + cells[1] * x / size[1], start[0] + cells[0] * y / size[0])
                      for x in range(size[1])] for y in range(size[0])], np.float32)


if __name__ == "__main__":
    STORED.parent.mkdir(exist_ok=True)
    kept = {key(*one): field(*one) if step(one[2]) == 1 else field(*one).ravel()[::step(one[2])]
            for one in FIELDS}
    np.savez_compressed(STORED, **kept)
    print(f"{STORED}: {len(kept)} fields, {STORED.stat().st_size / 1000:.0f} kB")
