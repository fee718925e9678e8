"""Every operation in plain PyTorch: the oracle of the tests, what `impl="reference"` runs, and a readable definition."""
