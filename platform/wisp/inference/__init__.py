"""What infers: onnxruntime sessions and model admission. Knows neither HTTP, Redis nor settings."""

import os

# Both start threads while they are imported, which would be outside of the walls that are raised after it
# (`wire.walls`): one numpy's linear algebra, of which nothing here makes use, the other its telemetry, which would
# also write below the home directory and call its maker.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
