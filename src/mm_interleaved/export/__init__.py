"""The written forms of a document: Markdown and JSON (both ways), HTML (a page to read)."""
