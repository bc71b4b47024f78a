"""How good a model is, measured on people, voices and sentences it has never met."""
