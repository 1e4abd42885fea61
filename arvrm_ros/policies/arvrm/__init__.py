# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""AR-VRM (ICCV 2025): keypoint model, retrieved human clips, analogical-reasoning map, action chunks."""
