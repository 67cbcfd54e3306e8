"""Readable lines of the engine bench's results."""


def number(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def spread_text(value):
    return f"{number(value['median'])} ({number(value['min'])} to {number(value['max'])}, {value['count']})"


def text_of(value, depth=1):
    """Lines of a summary: one for each entry, spreads as `median (min to max, count)`."""
    lines = []
    for name, entry in value.items():
        pad = "  " * depth
        if isinstance(entry, dict) and set(entry) == {"median", "min", "max", "count"}:
            lines.append(f"{pad}{name}: {spread_text(entry)}")
        elif isinstance(entry, dict):
            lines += [f"{pad}{name}:", text_of(entry, depth + 1)]
        else:
            lines.append(f"{pad}{name}: {number(entry)}")
    return "\n".join(lines)
