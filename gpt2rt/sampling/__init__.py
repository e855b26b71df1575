"""From logits to a token: settings, filters, bans and constraints."""
