"""Reports for new pictures, with their confidences: `conrad-bench report`."""
