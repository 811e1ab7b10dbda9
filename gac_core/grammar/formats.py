"""Formats of JSON schemas, and the patterns of those that the engine does not know by name."""

import re
from typing import Final

# Formats that tell an interface how to show a text, or that restrict it in a way which no pattern
# says in short; pydantic, OpenAPI and JSON Schema have them. Any text fits.
FREE_FORMATS: Final = frozenset(
    "password path file-path directory-path binary base64 base64url byte json-string color regex "
    "zoneinfo uri-template iri iri-reference idn-hostname char html markdown".split()
)

# Patterns of formats that the engine knows, but whose texts the search for an end might not find.
_DATE: Final = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_TIME: Final = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
HINTS: Final = {
    "email": r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}",
    "date-time": f"{_DATE}T{_TIME}",
    "date": _DATE,
    "time": _TIME,
    "duration": r"P(\d+D|\d*T\d+[HMS])",
}


def _ipv6() -> str:
    """Eight groups, or fewer with `::` in the place of the others."""
    group = "[0-9A-Fa-f]{1,4}"
    forms = [f"({group}:){{7}}{group}", f"({group}:){{1,7}}:", f":(:{group}){{1,7}}", "::"]
    forms += [f"({group}:){{1,{n}}}(:{group}){{1,{7 - n}}}" for n in range(1, 7)]
    return f"({'|'.join(forms)})"


_BYTE: Final = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4: Final = rf"{_BYTE}(\.{_BYTE}){{3}}"
_IPV6: Final = _ipv6()
_IPV4_NETWORK: Final = f"{_IPV4}(/(3[0-2]|[12]?[0-9]))?"
_IPV6_NETWORK: Final = f"{_IPV6}(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?"
_HEX: Final = "[0-9A-Fa-f]"
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL: Final = rf"{_ATOM}(\.{_ATOM})*@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{{2,63}}"
_POINTER: Final = "(/([^/~]|~[01])*)*"
_PATTERNS: Final = {
    **{
        f"uuid{v}": f"{_HEX}{{8}}-{_HEX}{{4}}-{v}{_HEX}{{3}}-[89ABab]{_HEX}{{3}}-{_HEX}{{12}}"
        for v in range(1, 9)
    },
    "ipv4network": _IPV4_NETWORK,
    "ipv4interface": _IPV4_NETWORK,
    "cidrv4": f"{_IPV4}/(3[0-2]|[12]?[0-9])",
    "ipv6network": _IPV6_NETWORK,
    "ipv6interface": _IPV6_NETWORK,
    "cidrv6": f"{_IPV6}/(12[0-8]|1[01][0-9]|[1-9]?[0-9])",
    "ipvanyaddress": f"{_IPV4}|{_IPV6}",
    "ipvanynetwork": f"{_IPV4_NETWORK}|{_IPV6_NETWORK}",
    "ipvanyinterface": f"{_IPV4_NETWORK}|{_IPV6_NETWORK}",
    "name-email": rf"\w+( \w+)* <{_EMAIL}>|{_EMAIL}",
    "idn-email": r"[^@\s]+@[^@\s]+\.[^@\s.]{2,}",
    "multi-host-uri": r"[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+",
    "uri-reference": r"[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=-]*(#[A-Za-z0-9._~:/?@!$&'()*+,;=-]*)?",
    "fraction": r"[+-]?\d+(/0*[1-9]\d*)?",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(0|[1-9][0-9]*)(#|{_POINTER})",
}
# What names may be, besides: the engine knows these as formats of values only.
_OF_NAMES: Final = {
    **HINTS,
    "uuid": f"{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
}

# A decimal number, as pydantic writes it from 2.12 on: of how many digits before the point, in all,
# and after it. Its look-ahead says that there is a digit.
_DECIMAL_BEGINS: Final = r"^(?!^[-+.]*$)[+-]?0*"
_DECIMAL: Final = re.compile(
    r"\\d\*\\\.\?(?:\\d\*|\\d\{0,(?P<after>\d+)\}0\*)\$"
    r"|\(\?:\\d\{0,(?P<before>\d+)\}\|\(\?=\[\\d\.\]\{1,(?P<length>\d+)\}0\*\$\)"
    r"(?:\\d\{0,(?P=before)\}\\\.\\d\{0,(?P<places>\d+)\}|\\d\*\\\.\\d\*)0\*\$\)"
)


def pattern_of_format(form: str) -> str | None:
    """The pattern, of a text as a whole, in the place of a format unknown to the engine."""
    return _PATTERNS.get(form)


def pattern_of_names(form: str) -> str | None:
    """The pattern of names of properties that have a format."""
    return _PATTERNS.get(form) or _OF_NAMES.get(form)


def without_lookahead(pattern: str) -> str:
    """The pattern, or one without look-ahead for the same texts if it is a decimal of pydantic."""
    if not pattern.startswith(_DECIMAL_BEGINS):
        return pattern
    found = _DECIMAL.fullmatch(pattern, len(_DECIMAL_BEGINS))
    if found is None:
        return pattern
    if found["before"] is None:
        after = found["after"]
        return _decimal([(None, None if after is None else int(after))])
    before, total = int(found["before"]), int(found["length"]) - 1
    if found["places"] is not None:
        return _decimal([(before, min(int(found["places"]), total))])
    return _decimal([(digits, total - digits) for digits in range(total, -1, -1)])


def _decimal(forms: list[tuple[int | None, int | None]]) -> str:
    """The pattern of numbers with so many digits before and after the point, zeros not counted."""
    wholes = [
        rf"{_digits(before, '0*', '')}(\.({_digits(after, '', '0*')})?)?" for before, after in forms
    ]
    return rf"^[+-]?({'|'.join(wholes)}|\.{_digits(forms[-1][1], '', '0*')})$"


def _digits(most: int | None, before: str, after: str) -> str:
    """One digit or more; more than so many only as zeros at one end."""
    if most is None:
        return r"\d+"
    return rf"{before}\d{{1,{most}}}{after}" if most else "0+"
