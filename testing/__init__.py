"""The parts of test.py: which pairs are scored, and what their scores come to."""
