"""Tests are many small problems: sharing each among cores takes longer, and many times longer on a busy machine."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch are imported; the processes that tests start inherit it
