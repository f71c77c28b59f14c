"""Numbers and nouns as people write them."""


def counted(count: int, one: str, many: str = "") -> str:
    """Say how many there are: ``1 slide``, ``2,000 slides``; ``many`` where an s is not enough."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
