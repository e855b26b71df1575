"""What a command is given: options, texts, prompts that are typed, and models by name."""
