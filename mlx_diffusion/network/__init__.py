"""DiffusionGemma as a network: tokens in, keys and values or a survey of the vocabulary out."""
