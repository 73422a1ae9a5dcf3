# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from firstboot.cluster.tokens import BadToken, Token, fingerprint

AUTHORITY = b"a certificate"
SHARED = "c0ffee" * 8 + "0123456789"


def test_a_one_time_token_is_what_it_was_when_it_is_read() -> None:
    made = Token.new(AUTHORITY)
    assert Token.parse(made.text) == made
    assert (made.shared, made.pin) == (False, fingerprint(AUTHORITY))
    assert Token.new(AUTHORITY) != made


def test_a_shared_token_is_found_by_an_id_that_does_not_tell_it() -> None:
    token = Token.parse(SHARED)
    assert (token.shared, token.text) == (True, SHARED)
    assert token.id == Token.parse(SHARED).id
    assert SHARED[:8] not in token.id
    assert Token.parse(SHARED + "x").id != token.id


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (Token.new(AUTHORITY).text[:-1], "cut off"),
        (Token.new(AUTHORITY).text.replace("basalt1.", "basalt1.x"), "damaged"),
        ("0123456789abcdef0123456789abcde", "guessed"),
        ("abababababababababababababababababab", "guessed"),
    ],
)
def test_a_bad_token_is_refused_without_being_repeated(text: str, why: str) -> None:
    with pytest.raises(BadToken, match=why) as raised:
        Token.parse(text)
    assert text not in str(raised.value)


def test_a_proof_holds_for_one_secret_question_authority_and_time_only() -> None:
    token = Token.parse(SHARED)
    proof = token.proof(b"nonce", AUTHORITY, 1)
    others = [
        Token.parse(SHARED + "x").proof(b"nonce", AUTHORITY, 1),
        token.proof(b"other", AUTHORITY, 1),
        token.proof(b"nonce", b"another", 1),
        token.proof(b"nonce", AUTHORITY, 2),
    ]
    assert token.proof(b"nonce", AUTHORITY, 1) == proof
    assert proof not in others


def test_secrets_are_not_shown() -> None:
    assert SHARED not in repr(Token.parse(SHARED))
