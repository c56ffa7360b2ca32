"""The node `tokenizer`: every scan on `~/input/points` becomes a token grid, and on demand a depth image and a cloud.

A lifecycle node that starts itself unless `autostart` is false. Unusual: the subscription only leaves the message in a
mailbox with one slot; one worker thread owns the model, takes the newest scan, and publishes. A scan that gives no tokens is
counted with its reason, never lost in silence.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String

from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.kernels.launch import keep_compiled_kernels
from copilot4d_ros import qos
from copilot4d_ros.debug_times import DebugTimes
from copilot4d_ros.diagnostics import LOSS_ADVICE, diagnostics_message
from copilot4d_ros.frame_processor import Frame, FrameProcessor, RejectedCloudError
from copilot4d_ros.frame_statistics import DropReason, FrameRecord, Snapshot
from copilot4d_ros.messages import image_from_tokens, stamp_ns
from copilot4d_ros.model_info import model_info
from copilot4d_ros.model_node import ModelNode, OpenRunner, run_model_node
from copilot4d_ros.view_topics import ViewTopics
from copilot4d_ros.views import Views

_WARN_EVERY_S = 5.0
_LOSS_WARN_EVERY_S = 30.0


class TokenizerNode(ModelNode):
    """Clouds in; tokens out, and what is rendered of them while somebody subscribes."""

    def __init__(self, open_model: OpenRunner = open_runner) -> None:
        """See `ModelNode`."""
        self._reported: Snapshot | None = None
        super().__init__("tokenizer", open_model)

    def _advertise(self) -> list[Any]:
        self._tokens = self.create_publisher(Image, "~/tokens", qos.OUTPUT)
        self._model_info = self.create_publisher(String, "~/model_info", qos.LATCHED)
        self._views, self._times = ViewTopics(self, self.settings), DebugTimes(self)
        return [self._tokens, self._model_info, *self._views.publishers, *self._times.publishers]

    def _subscribe(self) -> Any:
        events = qos.loss_callback(self._lost)
        settings = PointCloud2, "~/input/points", self._receive, qos.input_qos(self.settings.input_qos)
        try:
            return self.create_subscription(*settings, event_callbacks=events)
        except qos.UnsupportedEventTypeError:  # This middleware does not report what it loses.
            return self.create_subscription(*settings)

    def _lost(self, total: int) -> None:
        self._statistics.lost_in_transport(total)
        self.get_logger().warning(f"{total} clouds lost on the way: {LOSS_ADVICE}", throttle_duration_sec=_LOSS_WARN_EVERY_S)

    def _report(self) -> None:
        now = self._statistics.snapshot()
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name()
        self._diagnostics.publish(diagnostics_message(name, stamp, self._state(), self._model_id, now, self._reported))
        self._reported = now

    def _prepare(self, runner: Runner) -> Callable[[Any], None]:
        processor = FrameProcessor(runner, Views(runner, self.settings.pattern, self.settings.camera))
        processor.warm_up()
        keep_compiled_kernels()
        self._announce(runner)
        return lambda message: self._handle(processor, message)

    def _announce(self, runner: Runner) -> None:
        info = model_info(runner.config, runner.model_id, self.settings.pattern)
        self._model_info.publish(String(data=json.dumps(info)))
        self._model_id = runner.model_id
        rows, columns = info["grid"]
        self.get_logger().info(f"model {runner.model_id}: {rows} x {columns} tokens of {info['cell_size_m']} m")

    def _handle(self, processor: FrameProcessor, message: Any) -> None:
        started_s = time.perf_counter()
        wanted = self._views.wanted()
        try:
            frame = processor.process(message, wanted)
        except RejectedCloudError as error:
            self._statistics.dropped(error.reason)
            self.get_logger().warning(f"cloud dropped: {error}", throttle_duration_sec=_WARN_EVERY_S)
        except Exception as error:
            self._statistics.dropped(DropReason.FAILED)
            if isinstance(error, GpuError):
                self.get_logger().error(str(error))
                raise
            self.get_logger().error(f"cloud dropped, the model failed on it: {traceback.format_exc()}",
                                    throttle_duration_sec=_WARN_EVERY_S)
        else:
            self._publish(frame, message.header)
            stage_ms = frame.stage_ms | {"total": (time.perf_counter() - started_s) * 1e3}
            self._times.publish(stage_ms, message.header)
            self._statistics.processed(FrameRecord(stamp_ns(message.header), frame.points, frame.points_in_region,
                                                   frame.points_dropped, stage_ms))

    def _publish(self, frame: Frame, header: Any) -> None:
        self._tokens.publish(image_from_tokens(frame.tokens, header))
        self._views.publish(frame.rendered, header)


def main(args: Sequence[str] | None = None, open_model: OpenRunner = open_runner) -> None:
    """Run the node until SIGINT or SIGTERM; leaves the process with 0, or 1 after a refusal that was printed."""
    run_model_node("tokenizer", lambda: TokenizerNode(open_model), args)


if __name__ == "__main__":
    main()
