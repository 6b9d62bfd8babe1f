"""Text of models, services and data sets for the terminal: control characters are spelled out, none is obeyed."""

import re

# All but tab and line feed; with U+202A to U+202E and U+2066 to U+2069, which reorder what stands beside them.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def spelled_out(text: str) -> str:
    r"""Return `text` with each control character as Python writes it, such as `\x1b`; tabs and line feeds stay."""
    return CONTROL.sub(lambda match: repr(match.group())[1:-1], text)


def json_spelled_out(line: str) -> str:
    r"""Return JSON with the control characters that JSON lets stand in its texts as `\u` escapes; it means the same."""
    return CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", line)
