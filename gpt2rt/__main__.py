"""`python -m gpt2rt` is the command `gpt2rt`."""

from gpt2rt.cli import main

main()
