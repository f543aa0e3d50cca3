"""The format `pt2`: graphs as `torch.export` writes them."""

from plumbline.export.formats import FORMATS, ExportFormat

FORMATS.register(
    "pt2", ExportFormat(writer="plugins._pt2:write_graphs", reader="plugins/_pt2_reader.py")
)
