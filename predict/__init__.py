"""The parts of pred.py: inputs, what is done with each kind of them, and what is written."""
