"""The extensions, each against the installed verl and vLLM."""
