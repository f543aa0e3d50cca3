"""Stage `list_objects`: what lies below a URL in an object store, object by object."""

from plumbline.stage import run_stage
from plumbline.stages.list_objects import main

if __name__ == "__main__":
    run_stage(main)
