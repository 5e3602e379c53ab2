"""The parts of data.py: slices and volumes with their masks, and the folder that holds them."""
