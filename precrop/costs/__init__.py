"""Costs of a network beyond parameters and MACs, as polynomials of its widths.

Memory (`precrop.costs.memory`) and latency (`precrop.costs.latency`) become further rows of the
optimization program; a device's speed comes from a profile (`precrop.costs.profiles`).
"""
