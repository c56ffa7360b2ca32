# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The node `tokenizer`: every scan on `~/input/points` becomes a token grid, and on demand a depth image and a cloud.

A lifecycle node that starts itself unless `autostart` is false. Unusual: the subscription only leaves the message in a
mailbox with one slot; one worker thread owns the model, takes the newest scan, and publishes its tokens before it renders
anything. A scan that gives no tokens is counted with its reason, never lost in silence.
"""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # the only place that all distributions have
from sensor_msgs.msg import PointCloud2

from copilot4d_core.data.point_cloud2 import CloudLayout, layout_notes
from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.kernels.launch import keep_compiled_kernels
from copilot4d_ros import qos
from copilot4d_ros.cloud_topics import cloud_topics
from copilot4d_ros.code_use import CodeUse
from copilot4d_ros.debug_times import DebugTimes
from copilot4d_ros.frame_processor import EncodedScan, FrameProcessor, RejectedCloudError
from copilot4d_ros.frame_statistics import DropReason, FrameRecord, Snapshot
from copilot4d_ros.health import Finding, Kind
from copilot4d_ros.messages import stamp_ns
from copilot4d_ros.model_node import WARN_EVERY_S, ModelNode, OpenRunner
from copilot4d_ros.node_process import run_node
from copilot4d_ros.parameters import AUTO_TOPIC, TokenizerParameters
from copilot4d_ros.token_topics import TokenTopics
from copilot4d_ros.view_topics import ViewTopics

OWN_INPUT = "~/input/points"
_LOOK_EVERY_S = 0.25
"""How soon the only cloud topic of the graph is found."""
_LOOKS = 3
"""The surprise that is reported is the median of so many looks, so that one odd scan warns nobody."""


class TokenizerNode(ModelNode[TokenizerParameters]):
    """Clouds in; tokens out, and what is rendered of them while somebody subscribes."""

    INPUT = "scans"

    def __init__(self, open_model: OpenRunner = open_runner) -> None:
        """See `ModelNode`."""
        self._layout: CloudLayout | None = None
        self._code_use: CodeUse | None = None
        self._frame_id: str | None = None
        self._notes: dict[str, None] = {}
        self._refusal_text = ""
        self._surprise_m: tuple[float, ...] = ()
        self._views_failed = self._views_failed_reported = 0
        super().__init__("tokenizer", TokenizerParameters, open_model)
        if self.parameters.input_topic == AUTO_TOPIC:
            self.create_timer(_LOOK_EVERY_S, self._follow_the_only_topic, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _advertise(self) -> list[Any]:
        self._tokens, self._times = TokenTopics(self, self._reporter.output_mismatch), DebugTimes(self)
        return [*self._tokens.publishers, *self._times.publishers]

    def _subscribe(self) -> list[Any]:
        topic = self.parameters.input_topic or OWN_INPUT
        if topic == AUTO_TOPIC:
            found = cloud_topics(self)
            if len(found) != 1:
                return []
            (topic,) = found
        return [qos.subscription(self, PointCloud2, topic, self._receive, qos.input_qos(self.parameters.input_qos), self._lost,
                                 self._reporter.input_mismatch)]

    def _follow_the_only_topic(self) -> None:
        """Take the cloud topic when it is the only one; leave it only when nobody publishes there and there is another."""
        taken = [subscription.topic_name for subscription in self._inputs]
        if not self._is_active or any(map(self.count_publishers, taken)):
            return
        found = cloud_topics(self)
        if len(found) == 1 and found != taken:
            self._unsubscribe()
            self._inputs = self._subscribe()
            self.get_logger().info(f"{found[0]} is the only PointCloud2 topic: its clouds are taken")

    def _values(self) -> dict[str, str]:
        values = self._code_use.values() if self._code_use else {}
        for subscription in self._inputs:
            values |= {"input_topic": subscription.topic_name}
        if self._layout is not None:
            values |= {"layout": self._layout.text}
        last = self._statistics.snapshot().last
        if last is not None:
            values |= {"points": str(last.points), "points_in_region": str(last.points_in_region), "points_dropped": str(last.points_dropped),
                       "points_thinned": str(last.points_thinned)}
        if looks := self._surprise_m:
            values |= {"surprise_m": f"{statistics.median(looks):.3f}"}
        if self._notes:
            values |= {"layout_notes": "; ".join(list(self._notes))}
        return values | {"last_refusal": self._refusal_text, "views_failed": str(self._views_failed)}

    def _findings(self, now: Snapshot) -> list[Finding]:
        findings = []
        if not self._inputs:
            findings.append(_condition("topic", DiagnosticStatus.STALE, "expected one PointCloud2 topic to take, because input_topic is auto"
                                       f"{self._elsewhere('')}"))
        elif (count := self.count_publishers(topic := self._inputs[0].topic_name)) > 1:
            findings.append(_condition("publishers", DiagnosticStatus.WARN, f"{count} publishers on {topic}; a token grid is of one sensor"))
        if self._frame_id == "":
            findings.append(_condition("frame", DiagnosticStatus.WARN, "the clouds have an empty frame_id, and so have the outputs, which RViz and "
                                       "TF cannot place; set it in the driver"))
        if now.last is not None and now.last.points_thinned:
            findings.append(_condition("thinned", DiagnosticStatus.WARN, f"{now.last.points_thinned} points of the last cloud were left out, evenly; "
                                       "max_points allows more"))
        failed, self._views_failed_reported = self._views_failed - self._views_failed_reported, self._views_failed
        if failed:
            findings.append(Finding("views", DiagnosticStatus.ERROR, "tokens were published, but what is seen of them could not be rendered "
                                    f"({failed} since the last report); see the log"))
        surprise_m = statistics.median(self._surprise_m or (0.0,))
        if surprise_m > self.parameters.surprise_warn_m:
            findings.append(Finding("surprise", DiagnosticStatus.WARN, f"the scans are unlike the training data: surprise {surprise_m:.2f} m, "
                                    f"surprise_warn_m is {self.parameters.surprise_warn_m:g}; check the frame and mount of the sensor, or train on "
                                    "such scans", Kind.MEASURE))
        return findings

    def _elsewhere(self, topic: str) -> str:
        others = [name for name in cloud_topics(self) if name != topic]
        if not others:
            return "; no other PointCloud2 topic is published"
        return f"; other PointCloud2 topics: {', '.join(others)} (set input_topic to one of them)"

    def _prepare(self, runner: Runner, views: ViewTopics) -> Callable[[Any], None]:
        processor = FrameProcessor(runner, self.parameters.depth.pattern, lambda: self.parameters)
        processor.warm_up()
        keep_compiled_kernels()
        self._layout, self._code_use = None, CodeUse(runner.config)
        self._announce(runner)
        return lambda message: self._handle(processor, runner, views, message)

    def _announce(self, runner: Runner) -> None:
        info = self._tokens.announce(runner, self.parameters.depth.pattern)
        self._model_id, self._runner_text = runner.model_id, runner.backend
        rows, columns = info["grid"]
        self.get_logger().info(f"model {runner.model_id}: {rows} x {columns} tokens of {info['cell_size_m']} m")

    def _handle(self, processor: FrameProcessor, runner: Runner, views: ViewTopics, message: Any) -> None:
        started_s, self._frame_id = time.perf_counter(), message.header.frame_id
        scan = self._encoded(processor, message)
        if scan is None:
            return
        # Before anything is rendered: who takes the tokens does not wait for who looks at pictures.
        self._tokens.publish(scan.tokens, runner, message.header)
        self._note(message)
        rendering_ms, fault = self._show(processor, scan, views, message.header)
        stage_ms = scan.stage_ms | rendering_ms | {"total": (time.perf_counter() - started_s) * 1e3}
        self._times.publish(stage_ms, message.header)
        if self._code_use is not None:
            self._code_use.note(scan.tokens, scan.points_m)
        self._statistics.processed(FrameRecord(stamp_ns(message.header), len(scan.points_m), scan.points_in_region, scan.points_dropped,
                                               scan.points_thinned, stage_ms))
        if fault is not None:
            raise fault

    def _encoded(self, processor: FrameProcessor, message: Any) -> EncodedScan | None:
        """A scan's tokens; None after it was counted as dropped."""
        try:
            return processor.encode(message)
        except RejectedCloudError as error:
            self._statistics.dropped(error.reason)
            self._refusal_text = str(error)
            self.get_logger().warning(f"cloud dropped: {error}", throttle_duration_sec=WARN_EVERY_S)
        except Exception as error:
            self._statistics.dropped(DropReason.FAILED)
            if isinstance(error, GpuError):
                self.get_logger().error(str(error))
                raise
            self.get_logger().error(f"cloud dropped, the model failed on it: {traceback.format_exc()}",
                                    throttle_duration_sec=WARN_EVERY_S)
        finally:
            self._layout = processor.layout  # not the processor: after cleanup nothing may hold the model
        return None

    def _show(self, processor: FrameProcessor, scan: EncodedScan, views: ViewTopics, header: Any) -> tuple[dict[str, float], GpuError | None]:
        """Publish what somebody looks at; the milliseconds of its stages, and a fault of the GPU after which the model must be opened again."""
        wanted = views.wanted(header.frame_id)
        try:
            seen = processor.render(scan, wanted)
        except Exception as error:
            self._views_failed += 1
            self.get_logger().error(f"tokens published, but their views failed: {traceback.format_exc()}", throttle_duration_sec=WARN_EVERY_S)
            return {}, error if isinstance(error, GpuError) else None
        self._note_surprise(seen.surprise_m)
        views.publish(seen.rendered, wanted, header, seen.error_m)
        return seen.stage_ms, None

    def _note_surprise(self, surprise_m: float | None) -> None:
        if surprise_m is not None:
            self._surprise_m = (*self._surprise_m, surprise_m)[-_LOOKS:]
        elif self.parameters.surprise_period_s == 0:
            self._surprise_m = ()

    def _note(self, message: Any) -> None:
        """Tell what is odd about a cloud that could be read, once each."""
        for note in layout_notes(message):
            if note not in self._notes:
                self._notes[note] = None
                self.get_logger().warning(f"clouds are read, but {note}")


def _condition(name: str, level: bytes, text: str) -> Finding:
    return Finding(name, level, text, Kind.CONDITION)


def main(args: Sequence[str] | None = None, open_model: OpenRunner = open_runner) -> None:
    """Run the node until SIGINT or SIGTERM; leaves the process with 0, or 1 after a refusal that was printed."""
    run_node("tokenizer", lambda: TokenizerNode(open_model), args)


if __name__ == "__main__":
    main()
