"""Operators: one public function each, a reference that defines it, and faster forms held to it."""
