"""The parts of train.py: batches, augmentation, callbacks, resuming."""
