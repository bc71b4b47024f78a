"""Arc2Face's identity tokens: a face embedding in place of one word, read by a CLIP text encoder.

The sentence "photo of a id person" goes through CLIP-L; where the word "id" stands, its embedding is replaced by the
L2-normalised ArcFace vector padded with zeros to 768. (Papantoniou et al., "Arc2Face", ECCV 2024.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import MissingDependencyError

# CLIP's vocabulary: <start> photo of a id person <end>, padded with <end> to 77.
START, END = 49406, 49407
PROMPT = (START, 1125, 539, 320, 1014, 2533, END)
ID_POSITION = 4
LENGTH = 77


class Arc2FaceTokens(nn.Module):
    """Same two methods as `IdentityTokens`; parameters as in transformers' `CLIPTextModel`, under `text.`, without the
    `text_model.` that some versions put before them."""

    def __init__(self):
        super().__init__()
        try:
            from transformers import CLIPTextConfig, CLIPTextModel
        except ImportError as error:
            raise MissingDependencyError(
                "transformers, for the Arc2Face encoder", f"{error}", "Run `pip install transformers`."
            ) from None

        model = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
        self.text = getattr(model, "text_model", model)

    def forward(self, embedding: Tensor) -> Tensor:
        """embedding [B, 512] -> tokens [B, 77, 768], the last hidden state"""
        word = F.pad(F.normalize(embedding, dim=-1), (0, 768 - embedding.shape[-1]))
        table = self.text.embeddings.token_embedding
        padded = torch.tensor(PROMPT + (END,) * (LENGTH - len(PROMPT)), device=embedding.device)

        def put_identity(_module, _inputs, words: Tensor) -> Tensor:
            words = words.clone()
            words[:, ID_POSITION] = word.to(words.dtype)
            return words

        hook = table.register_forward_hook(put_identity)
        try:
            return self.text(padded.expand(len(embedding), -1)).last_hidden_state
        finally:
            hook.remove()

    def unconditional(self, batch: int) -> Tensor:
        """The empty sentence, [batch, 77, 768]"""
        device = self.text.embeddings.token_embedding.weight.device
        empty = torch.tensor((START,) + (END,) * (LENGTH - 1), device=device)
        return self.text(empty.expand(batch, -1)).last_hidden_state
