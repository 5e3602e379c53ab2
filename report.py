"""Pictures for people: overlays, montages, training curves, score plots."""


def curves(csv, png):
    pass
