"""Stage `export_model`: a task's model as a bundle that runs by itself."""

from plumbline.imports import leave
from plumbline.stage import run_stage
from plumbline.stages.export_model import main

if __name__ == "__main__":
    run_stage(main)
    leave()  # the exporter leaves millions of objects behind, seconds to clear up
