"""Latency and throughput of bundles, measured side by side. Needs the extra `bench`."""
