"""What the stages of the DAG do; the scripts in `stages/` of a project call them.

Settings are read and checked before anything heavy is imported, so that a wrong one is told at
once; hence the imports inside `main`.
"""
