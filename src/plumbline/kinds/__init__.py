"""The kinds of work: a folder each, with one module a role; `plumbline.kind` has the table."""
