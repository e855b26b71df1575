"""Measures all that is promised of CUDA in one call: `python -m gpt2rt_bench.gpu --graphs DIR`.

The machine with the device needs no network, no exporter and no weights: `prepare` writes the
graphs beforehand, and random weights are made there.
"""
