import itertools

from hypothesis import given, strategies as st

from gac_core.decoding.detokenizer import StopMatcher, TextDecoder, TurnMatcher

few = st.text("aba", max_size=12)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(points)]


@given(
    st.binary(max_size=40) | st.text().map(lambda t: t.encode(errors="replace")),
    st.lists(st.integers(0, 100)),
)
def test_pieces_joined_are_the_whole_however_cut(data: bytes, cuts: list[int]) -> None:
    decoder = TextDecoder()
    pieces = [decoder.push(part) for part in cut(data, cuts)]
    assert "".join(pieces) + decoder.flush() == data.decode(errors="replace")


@given(st.text(), st.lists(st.integers(0, 100)))
def test_no_half_characters(text: str, cuts: list[int]) -> None:
    data = text.encode(errors="replace")
    decoder = TextDecoder()
    assert all("\ufffd" not in decoder.push(part) for part in cut(data, cuts))


def first_stop(text: str, stops: list[str]) -> str:
    """Character by character: the text before the stop that is complete first."""
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


@given(
    few,
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.sampled_from(["", "bab", "a"]),
    st.lists(st.integers(0, 100)),
)
def test_stops_however_cut(text: str, stops: list[str], until: str, cuts: list[int]) -> None:
    matcher = StopMatcher(stops, until)
    free, tag, rest = text.partition(until) if until else (text, "", "")
    expected = first_stop(free, stops)
    if expected == free:
        expected += tag + rest
    shown = ""
    for part in cut(text.encode(), cuts):
        shown += matcher.push(part.decode())
        assert expected.startswith(shown)  # not even a first letter leaks
    shown += matcher.flush()
    assert shown == expected
    assert (matcher.matched is not None) == (expected != text)


def test_text_is_held_back_no_longer_than_needed() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.push("a\n") == "a"
    assert matcher.push("b") == "\nb"
    assert matcher.push("\n\nc") == ""
    assert matcher.matched == "\n\n"
    assert matcher.push("more") == ""


def before_turn(text: str, marks: list[str]) -> str:
    """Character by character: the text before the line breaks before the first mark on a line."""
    for at in range(len(text)):
        blank = text[:at].rstrip()
        breaks = [i for i in range(len(blank), at) if text[i] in "\r\n"]
        if breaks and text.startswith(tuple(marks), at):
            return text[: breaks[0]]
    return text


@given(
    st.lists(st.sampled_from(["\n", "\r\n", " ", "User", ":", "Use", "Tool:", "x", "U"])).map(
        "".join
    ),
    st.lists(st.integers(0, 100)),
)
def test_turns_however_cut(text: str, cuts: list[int]) -> None:
    marks = ["User:", "Tool:"]
    matcher, expected, shown = TurnMatcher(marks), before_turn(text, marks), ""
    for part in cut(text.encode(), cuts):
        shown += matcher.push(part.decode())
        assert expected.startswith(shown)  # not even a first letter leaks
    shown += matcher.flush()
    assert shown == expected
    assert matcher.found == (expected != text)


def test_without_marks_nothing_is_held_back() -> None:
    assert TurnMatcher().push("a\n\nUser:") == "a\n\nUser:"
