"""The commands of `gpt2rt`, one file a command, and what only they share."""
