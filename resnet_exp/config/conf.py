"""Where the configs of resnet_exp lie."""

from __future__ import annotations

from pathlib import Path

import resnet_exp

PACKAGE = Path(resnet_exp.__file__).resolve().parent
# At the top of the repository; inside the package once a wheel is installed.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
PRIMARY = "config"  # the yaml that a command composes unless --config-name names another
