"""Where documents come from: the corpus in the box (`playground`) and, later, sources and mixtures."""
