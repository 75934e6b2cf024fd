"""What is logged and written beside the run; a module works without any of them."""

from deepsynth.callbacks.adapter_checkpoint import AdapterCheckpoint
from deepsynth.callbacks.hub_checkpoint import HubCheckpoint
from deepsynth.callbacks.prediction_writer import PredictionWriter
from deepsynth.callbacks.process_guard import ProcessGuard
from deepsynth.callbacks.report.run_report import RunReport
from deepsynth.callbacks.run_plan import FinalValidation, RunPlan
from deepsynth.callbacks.sample_gallery import SampleGallery
from deepsynth.callbacks.text_metrics import TextMetrics
from deepsynth.callbacks.throughput import Throughput
from deepsynth.callbacks.vram_monitor import VramMonitor

__all__ = [
    "AdapterCheckpoint",
    "FinalValidation",
    "HubCheckpoint",
    "PredictionWriter",
    "ProcessGuard",
    "RunPlan",
    "RunReport",
    "SampleGallery",
    "TextMetrics",
    "Throughput",
    "VramMonitor",
]
