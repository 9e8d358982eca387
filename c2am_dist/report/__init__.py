"""Pictures of what was done: ``contact_sheet`` (a PNG) and ``write_report`` (HTML)."""

from c2am_dist.report.build import write_report
from c2am_dist.report.sheet import contact_sheet

__all__ = ["contact_sheet", "write_report"]
