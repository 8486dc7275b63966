"""The augmentations: random views of images, drawn for a whole batch on the device; one file and one yaml each."""
