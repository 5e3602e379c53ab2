"""A scan: its files, its grid, its views. Knows no network and no dataset."""
