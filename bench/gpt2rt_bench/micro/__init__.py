"""Single parts timed alone: sampler, drafts, opening."""
