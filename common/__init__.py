"""What every part shares; imports nothing else of this project."""

NAME, VERSION = "Brain region segmentation", "0.1.0"  # as in CHANGELOG.md
SOFTWARE = f"{NAME} {VERSION}"  # as the files name it that are written for others
