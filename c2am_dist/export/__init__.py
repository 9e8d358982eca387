"""Labels as data sets that other tools read: COCO, YOLO, VOC and others."""

from c2am_dist.export.job import ExportReport, MaskExportReport, export

__all__ = ["ExportReport", "MaskExportReport", "export"]
