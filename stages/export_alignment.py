"""Stage `export_alignment`: an alignment as a bundle that finds media by texts."""

from plumbline.imports import leave
from plumbline.stage import run_stage
from plumbline.stages.export_alignment import main

if __name__ == "__main__":
    run_stage(main)
    leave()  # the exporter leaves millions of objects behind, seconds to clear up
