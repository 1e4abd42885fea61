# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From images and text to features: hand landmarks, image and text encoders, camera sources."""
