"""What each member has read: its own ids for the text so far."""

from gac_core.tokens.history import History
from tests.fakes import make


def test_reencoding_gives_members_the_tokens_they_would_write() -> None:
    """ "Hello" written as "H" and "ello" by others becomes the member's own one token."""
    with make(["byte_level", "legacy"]) as ensemble:
        tokenizer = ensemble.members[0].tokenizer
        own = tokenizer.vocabulary.ids_by_bytes
        appended = History([1], tokenizer, reencode=False)
        rewritten = History([1], tokenizer, reencode=True)
        for history in (appended, rewritten):
            for unit in (b"H", b"el", b"lo", b"\xf0\x9f"):
                history.append(unit)
            assert history.answer == b"Hello\xf0\x9f"
        assert rewritten.ids[:2] == [1, own[b"Hello"]]
        assert len(appended.ids) > len(rewritten.ids)
        native = History([1], tokenizer, reencode=True)
        native.append(b"H", own[b"H"], is_foreign=False)
        native.append(b"e", own[b"e"], is_foreign=False)
        assert native.ids == [1, own[b"H"], own[b"e"]]  # what it wrote itself is left alone


def test_units_of_several_tokens_keep_the_cache() -> None:
    """A unit that one member must spell in pieces does not make it read everything again."""
    with make(["byte_level", "legacy"], [0, 1], space="tokens", history="append") as ensemble:
        output = ensemble.generate("Hello world, how are you today?", max_new_tokens=20)
        for member, usage in zip(ensemble.members, output.usage.members, strict=True):
            read = usage.prompt_tokens + usage.completion_tokens
            assert member.scorer.stats.positions <= read
        assert output.usage.members[1].completion_tokens > 20
