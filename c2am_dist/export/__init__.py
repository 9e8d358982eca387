"""Labels as data sets that other tools read: COCO, YOLO, VOC and others."""

from c2am_dist.export.cue_files import CueExportReport
from c2am_dist.export.job import ExportReport, MaskExportReport, export

__all__ = ["CueExportReport", "ExportReport", "MaskExportReport", "export"]
