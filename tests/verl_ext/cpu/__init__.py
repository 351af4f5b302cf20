"""The patches of the stack without an accelerator, each against the library that it patches."""
