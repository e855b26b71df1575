"""From a prompt to its continuation: requests, beams, drafts, stops."""
