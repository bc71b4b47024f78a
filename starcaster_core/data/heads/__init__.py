"""The synthetic heads: a CC0 mesh kit, people sampled from it, and a renderer that draws them."""
