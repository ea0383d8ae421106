"""Prompts: the model's tokenizer and its chat template. Imports `config` and `runtime`.

A context is encoded with what stands before it, and everything after the context in one piece: so
special tokens and blanks are those of the whole prompt's encoding. Contexts are pruned before a
question is known. Therefore no token spans the seam between context and question, and the words
that touch the seam may be cut into other tokens than in the whole prompt. A special token that
would span the seam is refused, and so are a tokenizer that drops blanks at the end of a text and a
seam at which it would put a blank that the whole prompt does not have.
"""
