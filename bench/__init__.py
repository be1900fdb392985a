"""Measurements beside plain overlay: always interleaved, always ratios with their spread, to a table and to JSON."""
