"""The parts of synthetic.py: heads, CT scans and tumours made from label maps or from nothing."""
