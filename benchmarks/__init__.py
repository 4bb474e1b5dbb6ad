"""Measurements; each is a command, as `python -m benchmarks.plan_speed`."""
