"""The only place that imports ultralytics: load, save, train, validate and look into its models.

ultralytics reads its switches from the environment when it is first imported, so they are set
here, before any module of this package imports it: it must not install packages or go online by
itself, and a checkpoint may name only classes that ultralytics knows.
"""

import os

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_VERBOSE", "false")
os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"
