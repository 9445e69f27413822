"""A checkpoint's files, from a folder or the Hub to checked parameters: config, headers, formats, recipes, weights."""
