"""Structure that is guaranteed: constraints, the texts that they allow, and a row's place in such a text."""
