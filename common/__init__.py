"""What every part shares; imports nothing else of this project."""

import os

NAME, VERSION = "Brain region segmentation", "0.1.0"  # as in CHANGELOG.md
SOFTWARE = f"{NAME} {VERSION}"  # as the files name it that are written for others
THREADS = min(4, os.cpu_count() or 1)  # that read or resample one scan; a round number
