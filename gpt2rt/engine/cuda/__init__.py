"""The CUDA graph of a bundle: a session on a device, its slots, and its readers of whole texts.

Its tails (`tails`) choose the next tokens on the device, and only these travel to the host.

Device memory is behind the interface `Memory`. Tests use its implementation over ordinary memory to
run the same code on the CPU provider and compare it with the other slots.
"""
