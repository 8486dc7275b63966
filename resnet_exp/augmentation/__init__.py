"""Random views of images: one file and one yaml each, drawn per image for a whole batch on the device."""
