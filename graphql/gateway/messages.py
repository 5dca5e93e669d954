"""What people read when something is refused, in Vietnamese and English, by reason."""


def text(reason, locale, metadata=None, *, kind="") -> str:
    return reason
