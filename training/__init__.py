"""The parts of train.py: options, batches, augmentation, callbacks."""
