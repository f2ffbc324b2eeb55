"""Calls in the facade's own words: what its requests say, and how answers are told."""
