"""How much of packed rows is filling, and how long packing takes.

    python scripts/bench_packing.py [--examples N] [--length T]

Lengths are drawn log-normally, with a median of 245 tokens and a few as long as a row, which is how
sets of conversations are: most are short, and most tokens are in the long ones.
"""

import argparse
import time

import numpy as np

from jaxllm.data.packing import pack

MEDIAN, SPREAD, LEAST = 245, 1.0, 8  # tokens; standard deviation of their logarithm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--length", type=int, nargs="+", default=[2048, 8192])
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    for count in given.examples:
        for length in given.length:
            drawn = rng.lognormal(np.log(MEDIAN), SPREAD, count)
            sizes = np.clip(drawn.astype(np.int64), LEAST, length)
            start = time.perf_counter()
            packing = pack(sizes, length)
            seconds = time.perf_counter() - start
            filling = 1 - sizes.sum() / (packing.num_rows * length)
            alone = 1 - sizes.sum() / (count * length)
            print(
                f"{count:,} examples in {packing.num_rows:,} rows of {length}: {filling:.3%} is "
                f"filling ({alone:.1%} with one in each row), packed in {seconds:.2f} s"
            )


if __name__ == "__main__":
    main()
