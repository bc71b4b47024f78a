"""The paper-scale identity tokens: CLIP's text model with one word replaced by the face."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from starcaster_core.models.arc2face import ID_POSITION, LENGTH, PROMPT, Arc2FaceTokens


@pytest.mark.slow
@torch.no_grad()
def test_the_identity_stands_in_place_of_one_word():
    torch.manual_seed(0)
    encoder = Arc2FaceTokens().eval()
    face = torch.randn(2, 512)
    tokens = encoder(face)
    assert tokens.shape == (2, LENGTH, 768)
    torch.testing.assert_close(encoder(face * 3), tokens)  # only the direction counts

    # The same by hand: write the padded vector into the vocabulary at the word "id", then read the sentence normally.
    table = encoder.text.embeddings.token_embedding
    kept = table.weight[PROMPT[ID_POSITION]].clone()
    table.weight[PROMPT[ID_POSITION]] = F.pad(F.normalize(face[0], dim=0), (0, 256))
    ids = torch.tensor([PROMPT + (PROMPT[-1],) * (LENGTH - len(PROMPT))])
    by_hand = encoder.text(ids).last_hidden_state
    table.weight[PROMPT[ID_POSITION]] = kept
    torch.testing.assert_close(tokens[:1], by_hand, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encoder.unconditional(1), tokens[:1])
