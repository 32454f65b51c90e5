"""The command line: one file per verb — parse, call the library function, write. Only this folder prints."""
