"""The machine that a figure belongs to: its hardware, bandwidth, health."""
